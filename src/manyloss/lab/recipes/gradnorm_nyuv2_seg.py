"""GradNorm 2018, section 5 and table 1: depth, 13 classes and surface normals of indoor scenes.

**Network.** SegNet on 320x320, shared up to one last layer per task, outputs of 80x80. W is the last shared
convolution.

**Losses.** Squared error of the depth, cross-entropy per pixel, 1 - cos for normals.

**Training.** Adam from 2e-5, times 0.2 every 6,000 of 20,000 steps, batches of 24; GradNorm's alpha is 1.5.
The paper trains on NYUv2's 795 images and tests on 654; here rooms are made, as many of them at full scale.

**Rows.** single (three), equal, gradnorm-static, gradnorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torchmetrics import MeanSquaredError, Metric

from manyloss.lab.checks import LabError
from manyloss.lab.datasets import rooms
from manyloss.lab.metrics import CosineDistance, IoUDistance
from manyloss.lab.models.segnet import SegNet
from manyloss.lab.problem import Problem, Splits, TensorSplit
from manyloss.lab.recipes import Recipe

CHANNELS = {"depth": 1, "segmentation": len(rooms.CLASSES), "normals": 3}
#: In metres, near the mean of the rooms (2.9).
TYPICAL_DEPTH = 3.0
#: Where the learning rate falls, as a share of the training, and by how much.
DECAY_AFTER, DECAY = 0.3, 0.2


def cosine_distance(output: Tensor, target: Tensor) -> Tensor:
    """1 - cos of two [B, 3, H, W], mean over pixels."""
    return 1 - F.cosine_similarity(output, target, dim=1).mean()


class RoomImages(TensorSplit):
    """Images kept as bytes [N, 3, H, W]; a batch is on the scale -1..1."""

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]."""
        images, targets = super().batch(indices, generator)
        return images / 127.5 - 1, targets


def rendered(seed: int, first: int, count: int, image: int, output: int) -> RoomImages:
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
    }
    return RoomImages(images, targets)


class Rooms(Problem):
    """How far, what, and which way does it face?

    Args:
        image: the side of the images.
        unpoolings: of SegNet; the outputs have image / 2^(5 - unpoolings) pixels a side.
        width: channels of SegNet's first layer, 64 in VGG16.
        train: how many rooms to train on.
        test: how many to test on, and to choose the epoch on.
        lr: Adam's learning rate at the start.
        batch_size: examples per step, 24 in the paper.

    """

    name = "gradnorm-nyuv2-seg"
    epochs = 20
    evaluation_batch_size = 32
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {
        "depth": F.mse_loss,
        "segmentation": F.cross_entropy,
        "normals": cosine_distance,
    }
    metrics: Mapping[str, Callable[[], Metric]] = {
        "depth/RMS": partial(MeanSquaredError, squared=False),
        "segmentation/100-IoU": partial(IoUDistance, num_classes=len(rooms.CLASSES)),
        "normals/1-cos": CosineDistance,
    }

    def __init__(
        self,
        image: int = 80,
        unpoolings: int = 5,
        width: int = 8,
        train: int = 400,
        test: int = 200,
        lr: float = 1e-3,
        batch_size: int = 24,
    ) -> None:
        self.image, self.output = image, image // 2 ** (5 - unpoolings)
        if image < 32 or image % 2 ** (5 - unpoolings):
            raise LabError(
                f"images of {image} pixels cannot be pooled five times and unpooled {unpoolings} times to "
                f"whole pixels. Choose --image 80, 160 or 320."
            )
        self.unpoolings, self.width = unpoolings, width
        self.train, self.test, self.lr, self.batch_size = train, test, lr, batch_size

    def datasets(self, seed: int) -> Splits:
        """Other rooms for every seed."""
        make = partial(rendered, seed, image=self.image, output=self.output)
        train = make(first=0, count=self.train)
        return Splits(train, make(first=self.train, count=self.test), make(self.train + self.test, self.test))

    def has_papers_data(self) -> bool:
        """Never: the rooms are made."""
        return False

    def encoder(self) -> nn.Module:
        """SegNet up to its last features."""
        return SegNet(self.width, self.unpoolings)

    def heads(self) -> Mapping[str, nn.Module]:
        """One layer each; depth starts at a typical one."""
        features = SegNet(self.width, self.unpoolings).channels
        heads = {task: nn.Conv2d(features, channels, 1) for task, channels in CHANNELS.items()}
        bias = heads["depth"].bias
        assert bias is not None
        nn.init.constant_(bias, TYPICAL_DEPTH)
        return heads

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(parameters, lr=self.lr)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The paper's steps, at the same shares of the training."""
        return StepLR(optimizer, max(1, round(DECAY_AFTER * self.epochs)), DECAY)


recipe = Recipe(
    name="gradnorm-nyuv2-seg",
    summary="Depth, 13 classes and normals of indoor scenes, all but the last layer shared.",
    problem=Rooms,
    arms=("single:depth", "single:segmentation", "single:normals", "equal", "gradnorm", "gradnorm-static"),
    seeds=3,
    paper="GradNorm (2018), section 5.2, table 1",
    departures=(
        "Rooms are made by ray casting; NYUv2's photos are not read yet.",
        "Small is 80x80 in and out, 400 rooms, an eighth of the width, 2,000 steps of 8, Adam from 1e-3.",
        "The depth's bias starts at a typical depth: from 0, hundreds of steps go into the mean alone.",
        "Full is the paper's network, sizes, batch, learning rate and number of steps.",
        "Segmentation error is 1 - mean IoU over the 13 classes; the paper's table has percent.",
    ),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "image": 32, "width": 2, "train": 8, "test": 4, "batch_size": 4},
        "small": {"epochs": 40, "seeds": 3, "batch_size": 8},
        "full": {
            "epochs": 606,
            "seeds": 3,
            "image": 320,
            "unpoolings": 3,
            "width": 64,
            "train": 795,
            "test": 654,
            "lr": 2e-5,
        },
    },
)
