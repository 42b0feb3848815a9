"""What the dense experiments share: rooms and what is known of them; losses, errors, pictures.

**Losses**, means over the pixels whose truth is known. depth: squared error in metres. segmentation:
cross-entropy. normals: 1 - cos. keypoints: the squared distance of the 48 heat maps, summed over the maps;
each truth is a Gaussian around a corner of the room that lies in the picture.

**Errors.** depth: RMS, metres. segmentation: 1 - mean IoU. normals: 1 - cos. keypoints: the distance of the
heat map's highest pixel from the corner, over the picture's diagonal, of the corners that are there.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from manyloss.lab import checks
from manyloss.lab.datasets import default_data_root, nyuv2, rooms
from manyloss.lab.metrics import CosineDistance, DepthError, HeatMapDistance, IoUDistance
from manyloss.lab.pictures import Pictures
from manyloss.lab.problem import Outputs, Problem, Splits, Targets, TensorSplit

CHANNELS: Mapping[str, int] = {
    "depth": 1,
    "segmentation": len(rooms.CLASSES),
    "normals": 3,
    "keypoints": rooms.KEYPOINTS,
}
UNLABELLED = -1
#: In metres, near the mean of the rooms (2.9).
TYPICAL_DEPTH = 3.0
#: Pictures of depth are black from here on.
FARTHEST = 8.0
#: Of the keypoints' Gaussians, as a share of the side; 2.5 of 80 pixels.
SIGMA = 1 / 32

SUBSTITUTE = (
    "Rooms are made by ray casting, since NYUv2 cannot be shipped.",
    "The depth's bias starts at a typical depth: from 0, hundreds of steps go into the mean alone.",
)

# -- losses -------------------------------------------------------------------------------------------------


def squared_depth(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of [B, 1, H, W] where the depth is known (over 0)."""
    return _mean_where(target > 0, (output - target).square())


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Of [B, C, H, W] and classes [B, H, W], where these are known."""
    return _mean_where(
        target >= 0, F.cross_entropy(output, target, ignore_index=UNLABELLED, reduction="none")
    )


def cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """1 - cos of two [B, 3, H, W], where the normal is known (not 0)."""
    return _mean_where(target.square().sum(1) > 0, 1 - F.cosine_similarity(output, target, dim=1))


def absolute_cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """1 - |cos| of two [B, 3, H, W], where the normal is known (not 0)."""
    return _mean_where(target.square().sum(1) > 0, 1 - F.cosine_similarity(output, target, dim=1).abs())


def heat_map_distance(output: Tensor, target: Tensor) -> Tensor:
    """Squared distance per pixel of the maps [B, K, H, W] from those of the places [B, K, 2]."""
    return (output - heat_maps(target, *output.shape[2:])).square().sum(1).mean()


def heat_maps(places: Tensor, height: int, width: int) -> Tensor:
    """A Gaussian around each place (x, y) in 0..1, nothing for NaN: [B, K, 2] -> [B, K, height, width]."""
    along = []
    for axis, pixels in ((1, height), (0, width)):
        middle = (torch.arange(pixels, device=places.device) + 0.5) / pixels
        along.append((-((middle - places[:, :, axis, None]) ** 2) / (2 * SIGMA**2)).exp().nan_to_num())
    return along[0][:, :, :, None] * along[1][:, :, None, :]


def _mean_where(known: Tensor, values: Tensor) -> Tensor:
    return (values * known).sum() / known.sum().clamp(min=1)


LOSSES: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "depth": squared_depth,
    "segmentation": cross_entropy,
    "normals": cosine_distance,
    "keypoints": heat_map_distance,
}
METRICS: Mapping[str, Callable[[], Metric]] = {
    "depth/RMS": DepthError,
    "segmentation/100-IoU": partial(
        IoUDistance, num_classes=CHANNELS["segmentation"], ignore_index=UNLABELLED
    ),
    "normals/1-cos": CosineDistance,
    "keypoints/error": HeatMapDistance,
}


def of_tasks(found: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    """The losses or metrics of these tasks, in their order."""
    return {name: value for task in tasks for name, value in found.items() if name.partition("/")[0] == task}


REGRESSIONS = ("depth", "normals", "keypoints")


# -- data ---------------------------------------------------------------------------------------------------


class DenseSplit(TensorSplit):
    """Images kept as bytes [N, 3, S, S]; a batch is on the scale -1..1."""

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]."""
        images, targets = super().batch(indices, generator)
        return images / 127.5 - 1, targets


@lru_cache(maxsize=3)  # the parts of one seed, which all methods train on one after the other
def made_rooms(seed: int, first: int, count: int, image: int, output: int) -> DenseSplit:
    """Rooms ``first`` to ``first + count``; every target is read in the middle of its output pixel."""
    seen = [rooms.render(seed, index, image, image) for index in range(first, first + count)]
    stride = image // output
    every = slice(stride // 2, None, stride)
    images = torch.from_numpy(np.stack([room.image for room in seen])).permute(0, 3, 1, 2).contiguous()
    normals = torch.from_numpy(np.stack([room.normals[every, every] for room in seen])).permute(0, 3, 1, 2)
    targets = {
        "depth": torch.from_numpy(np.stack([room.depth[every, every] for room in seen]))[:, None],
        "segmentation": torch.from_numpy(np.stack([room.classes[every, every] for room in seen])).long(),
        "normals": normals.contiguous(),
        "keypoints": torch.from_numpy(np.stack([room.keypoints for room in seen])),
    }
    return DenseSplit(images, targets)


def resized(values: Tensor, side: int) -> Tensor:
    """Colours in bytes [B, 3, H, W], smoothly; anything else [B, C, H, W] as the nearest pixel has it."""
    size = (side, side)
    if values.dtype == torch.uint8:
        smooth = F.interpolate(values.float(), size, mode="bilinear", antialias=True)
        return smooth.round().clamp(0, 255).to(torch.uint8)
    return F.interpolate(values.double(), size, mode="nearest-exact").to(values.dtype)


@lru_cache(maxsize=3)
def photographed(root: Path, split: str, places: range, image: int, output: int) -> DenseSplit:
    """NYUv2's scenes at these sizes."""
    images, parts = [], []
    found = nyuv2.load(root, split)
    for scene in (found[place] for place in places):
        colours = torch.from_numpy((255 * scene.image).round().astype(np.uint8)).permute(2, 0, 1)
        images.append(resized(colours[None], image))
        parts.append(
            {
                "depth": resized(torch.from_numpy(scene.depth)[None, None], output),
                "segmentation": resized(torch.from_numpy(scene.classes)[None, None], output)[:, 0],
                "normals": resized(torch.from_numpy(scene.normals).permute(2, 0, 1)[None], output),
            }
        )
    return DenseSplit(
        torch.cat(images), {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    )


# -- the problem --------------------------------------------------------------------------------------------


class DenseRooms(Problem):
    """What is known of a room, from one picture.

    Args:
        data: "rooms", made ones; or "nyuv2", the official file or arrays (`datasets.nyuv2`).
        data_root: the folder that has nyuv2.
        image: the side of the images.
        stride: the outputs have image / stride pixels a side, 4 in the papers.
        width: channels of the network's first layer.
        train: how many rooms to train on.
        test: how many to test on, and to choose the epoch on.
        lr: Adam's learning rate at the start.
        batch_size: examples per step.

    """

    #: Values of ``data``.
    sources: tuple[str, ...] = ("rooms", "nyuv2")
    epochs = 20
    evaluation_batch_size = 32
    channels_last = True
    shown = 4

    def __init__(
        self,
        data: str = "rooms",
        data_root: str | None = None,
        image: int = 80,
        stride: int = 1,
        width: int = 8,
        train: int = 400,
        test: int = 200,
        lr: float = 1e-3,
        batch_size: int = 8,
    ) -> None:
        if data not in self.sources:
            raise checks.unknown_source(self.name, data, self.sources)
        if image < 32 or stride not in (1, 2, 4, 8, 16) or image % max(stride, 2):
            raise checks.LabError(
                f"images of {image} pixels cannot be halved five times and brought to a {stride}th of their "
                f"side in whole pixels. Choose --option image=80, 160 or 320, and --option stride=1, 2 or 4."
            )
        self.data, self.data_root = data, data_root
        self.image, self.output = image, image // stride
        #: How often a network that halves its input five times has to double it again.
        self.doublings = 5 - int(math.log2(stride))
        self.width, self.train, self.test = width, train, test
        self.lr, self.batch_size = lr, batch_size

    def datasets(self, seed: int) -> Splits:
        """Other rooms for every seed; of NYUv2, the last tenth of the training photos is for validation."""
        if self.data == "nyuv2":
            root = default_data_root(self.data_root)
            train, test = (len(nyuv2.load(root, split)) for split in ("train", "test"))
            read = partial(photographed, root, image=self.image, output=self.output)
            held_out = train - max(1, train // 10)
            return Splits(
                read("train", range(min(held_out, self.train))),
                read("train", range(held_out, train)),
                read("test", range(min(test, self.test))),
            )
        make = partial(made_rooms, seed, image=self.image, output=self.output)
        return Splits(
            make(first=0, count=self.train),
            make(first=self.train, count=self.test),
            make(first=self.train + self.test, count=self.test),
        )

    def has_papers_data(self) -> bool:
        """NYUv2 at the papers' size."""
        return self.data == "nyuv2" and self.image == 320 and self.width == 64

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(parameters, lr=self.lr)

    def pictures(self, inputs: Any, outputs: Outputs, targets: Targets) -> Pictures:
        """The photo, and per task the truth and the answer."""
        drawn = {task: DRAWN[task](inputs, outputs[task], targets[task]) for task in outputs if task in DRAWN}
        return Pictures(
            inputs=as_bytes((inputs + 1) / 2),
            truth={task: truth for task, (truth, _) in drawn.items()},
            outputs={task: answer for task, (_, answer) in drawn.items()},
        )


def starting_at_typical_depth(heads: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """The same heads; the last layer of depth has its bias there."""
    last = [layer for layer in heads["depth"].modules() if isinstance(layer, nn.Conv2d)][-1]
    assert last.bias is not None
    nn.init.constant_(last.bias, TYPICAL_DEPTH)
    return heads


# -- pictures -----------------------------------------------------------------------------------------------


def as_bytes(values: Tensor) -> Tensor:
    """Values in 0..1, [B, 3, H, W] or [B, 1, H, W] -> bytes [B, H, W, 3] or [B, H, W]."""
    found = (255 * values.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1)
    return found.squeeze(3) if found.shape[3] == 1 else found


def class_colours(count: int) -> Tensor:
    """The rooms' own colours, or hues that differ; the last row, of what is unlabelled, is black."""
    hues = [
        colorsys.hsv_to_rgb(0.618 * i % 1, 0.55 + 0.15 * (i % 3), 0.9 - 0.2 * (i % 2)) for i in range(count)
    ]
    colours = torch.tensor(rooms.COLOURS.tolist() if count == len(rooms.CLASSES) else hues)
    return torch.cat([colours, torch.zeros(1, 3)])


def _drawn_depth(_: Tensor, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return as_bytes(1 - target / FARTHEST), as_bytes(1 - output / FARTHEST)


def _drawn_classes(_: Tensor, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    colours = class_colours(output.shape[1])
    painted = [as_bytes(colours[each.cpu()].permute(0, 3, 1, 2)) for each in (target, output.argmax(1))]
    return painted[0], painted[1]


def _drawn_normals(_: Tensor, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return as_bytes((target + 1) / 2), as_bytes((F.normalize(output, dim=1) + 1) / 2)


def _drawn_keypoints(inputs: Tensor, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of the maps, in red on the grey photo."""
    grey = F.interpolate(inputs.mean(1, keepdim=True), output.shape[2:], mode="area") / 2 + 0.5
    red = torch.tensor([1.0, 0.1, 0.0], device=inputs.device)[:, None, None]
    drawn = []
    for maps in (heat_maps(target, *output.shape[2:]), output):
        heat = maps.amax(1, keepdim=True).clamp(0, 1)
        drawn.append(as_bytes((1 - heat) * grey + heat * red))
    return drawn[0], drawn[1]


DRAWN: Mapping[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "depth": _drawn_depth,
    **dict.fromkeys(("segmentation", "coarse", "fine"), _drawn_classes),
    "normals": _drawn_normals,
    "keypoints": _drawn_keypoints,
}
