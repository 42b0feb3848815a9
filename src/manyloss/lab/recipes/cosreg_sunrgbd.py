"""CosReg 2020, section 5.2, table 3 and figure 4: coarse and fine segmentation, and depth.

The two segmentations agree: the paper finds that the gradients of coarse and fine classes point the same way,
and that CosReg turns them to right angles at no cost.

**Data.** SUN RGB-D: 13 and 37 classes, 5,285 and 5,050 images, flipped at random. Here made rooms, whose 13
classes are the fine ones, with five kinds as coarse ones; and CamVid's streets with 11 and 5, without depth.
With SUN RGB-D at hand, ``--data sunrgbd --data-root FOLDER``.

**Training.** Batches of 3, Adam from 1e-4, halved every 2 of 25 epochs. `_cosreg_dense` has the network and
the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from manyloss.lab.arms import Arm
from manyloss.lab.datasets import camvid, default_data_root, rooms, sunrgbd
from manyloss.lab.metrics import DepthError, IoUDistance
from manyloss.lab.problem import Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._cosreg_dense import DEPARTURES, FULL, ROWS, SMALL, SMOKE, DecoderPerTask
from manyloss.lab.recipes._dense import (
    LOSSES,
    REGRESSIONS,
    SUBSTITUTE,
    UNLABELLED,
    DenseSplit,
    made_rooms,
    resized,
)
from manyloss.lab.recipes._kinds import uncertainty

#: How many coarse and how many fine classes a source has.
CLASSES = {"rooms": (5, len(rooms.CLASSES)), "camvid": (5, len(camvid.CLASSES)), "sunrgbd": (13, 37)}
#: The rooms' classes as built, to lie or sit on, furniture, small things, and what hangs on walls.
KINDS = ("ceiling floor wall", "bed chair sofa", "furniture table", "books objects", "picture tv window")
ROOMS_TO_COARSE = np.array([[name in kind.split() for kind in KINDS].index(True) for name in rooms.CLASSES])
EPOCHS_TO_HALF = 2


class FlippedSplit(DenseSplit):
    """In training, half of the images are mirrored, with their targets."""

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]."""
        images, targets = super().batch(indices, generator)
        if generator is None:
            return images, targets
        mirrored = torch.rand(len(indices), generator=generator) < 0.5

        def flip(values: Tensor) -> Tensor:
            return torch.where(mirrored.view(-1, *[1] * (values.dim() - 1)), values.flip(-1), values)

        return flip(images), {name: flip(target) for name, target in targets.items()}


class CoarseAndFine(DecoderPerTask):
    """Which kind of thing, which thing, and how far?"""

    name = "cosreg-sunrgbd"
    tasks: tuple[str, ...] = ("coarse", "fine", "depth")
    sources = ("rooms", "sunrgbd")
    arms: Mapping[str, Arm] = uncertainty(REGRESSIONS)

    def __init__(self, data: str = "rooms", **options: Any) -> None:
        super().__init__(data=data, **options)
        counts = dict(zip(("coarse", "fine"), CLASSES[data], strict=True))
        error = partial(IoUDistance, ignore_index=UNLABELLED)
        self.losses = {task: LOSSES["depth" if task == "depth" else "segmentation"] for task in self.tasks}
        self.metrics = {f"{name}/1-mIoU": partial(error, num_classes=count) for name, count in counts.items()}
        if "depth" in self.tasks:
            self.metrics |= {"depth/RMS": DepthError}
        self.counts = counts | {"depth": 1}

    def channels(self) -> Mapping[str, int]:
        """The outputs of every task."""
        return {task: self.counts[task] for task in self.tasks}

    def has_papers_data(self) -> bool:
        """SUN RGB-D at the paper's size."""
        return self.data == "sunrgbd" and self.image == 320 and self.width == 64

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Halved every two epochs."""
        return StepLR(optimizer, EPOCHS_TO_HALF, 0.5)

    def datasets(self, seed: int) -> Splits:
        """Other rooms for every seed; of SUN RGB-D, the last tenth of the training is for validation."""
        if self.data == "rooms":
            make = partial(made_rooms, seed, image=self.image, output=self.output)
            parts = [
                make(first=0, count=self.train),
                make(first=self.train, count=self.test),
                make(first=self.train + self.test, count=self.test),
            ]
            return Splits(*(self._of_rooms(part) for part in parts))
        root = default_data_root(self.data_root)
        if self.data == "camvid":
            found = camvid.load(root)
            return Splits(
                self._of_streets(found.train, self.train),
                self._of_streets(found.validation, self.test),
                self._of_streets(found.test, self.test),
            )
        train, test = sunrgbd.SunRgbd(root, "train"), sunrgbd.SunRgbd(root, "test")
        held_out = len(train) - max(1, len(train) // 10)
        return Splits(
            self._of_photos(train, range(min(held_out, self.train))),
            self._of_photos(train, range(held_out, len(train))),
            self._of_photos(test, range(min(len(test), self.test))),
        )

    def _split(
        self, images: Tensor, fine: Tensor, to_coarse: npt.NDArray[Any], depth: Tensor | None
    ) -> FlippedSplit:
        """``fine`` [N, H, W], -1 where unlabelled; ``to_coarse`` by fine class."""
        coarse = torch.from_numpy(np.append(to_coarse, UNLABELLED)).long()[fine]
        targets = {"coarse": coarse, "fine": fine}
        return FlippedSplit(images, targets if depth is None else {**targets, "depth": depth})

    def _of_rooms(self, made: DenseSplit) -> FlippedSplit:
        depth = made.targets["depth"] if "depth" in self.tasks else None
        return self._split(made.inputs, made.targets["segmentation"], ROOMS_TO_COARSE, depth)

    def _of_streets(self, streets: camvid.Streets, most: int) -> FlippedSplit:
        images = torch.from_numpy(streets.images[:most]).permute(0, 3, 1, 2)
        fine = torch.from_numpy(streets.classes[:most].astype(np.int64))
        fine[fine == camvid.UNLABELLED] = UNLABELLED
        fine = resized(fine[:, None], self.output)[:, 0]
        return self._split(resized(images, self.image), fine, camvid.TO_COARSE[:-1], None)

    def _of_photos(self, photos: sunrgbd.SunRgbd, places: range) -> FlippedSplit:
        scenes = [photos[place] for place in places]
        colours = [torch.from_numpy(scene.image).permute(2, 0, 1)[None] for scene in scenes]
        fine = [torch.from_numpy(scene.classes)[None, None] for scene in scenes]
        depth = [torch.from_numpy(scene.depth)[None, None] for scene in scenes]
        return self._split(
            torch.cat([resized(each, self.image) for each in colours]),
            torch.cat([resized(each, self.output)[:, 0] for each in fine]),
            sunrgbd.TO_COARSE,
            torch.cat([resized(each, self.output) for each in depth]),
        )


class CoarseAndFineStreets(CoarseAndFine):
    """Which kind of thing, and which thing is in the street?"""

    name = "cosreg-sunrgbd-streets"
    tasks = ("coarse", "fine")
    sources = ("camvid", "rooms")

    def __init__(self, data: str = "camvid", **options: Any) -> None:
        super().__init__(data=data, **options)


PAPER = (
    "Regularizing Deep Multi-Task Networks using Orthogonal Gradients (2020), section 5.2, table 3, figure 4"
)
recipes = (
    Recipe(
        name="cosreg-sunrgbd",
        summary="Coarse and fine segmentation of indoor scenes, whose gradients agree, and depth.",
        problem=CoarseAndFine,
        arms=("single:coarse", "single:fine", "single:depth", *ROWS),
        seeds=3,
        paper=PAPER,
        departures=(
            *SUBSTITUTE,
            "13 fine and 5 coarse classes; with SUN RGB-D (--data sunrgbd) the paper's 37 and 13.",
            *DEPARTURES,
        ),
        scales={
            "smoke": SMOKE,
            "small": SMALL,
            "full": {**FULL, "train": 5285, "test": 5050, "batch_size": 3},
        },
    ),
    Recipe(
        name="cosreg-sunrgbd-streets",
        summary="Coarse and fine segmentation of real streets, whose gradients agree.",
        problem=CoarseAndFineStreets,
        arms=("single:coarse", "single:fine", *ROWS),
        seeds=3,
        paper=PAPER,
        departures=(
            "CamVid's streets, 11 fine and 5 coarse classes, in place of SUN RGB-D's rooms; no depth.",
            *DEPARTURES,
        ),
        scales={
            "smoke": {**SMOKE, "data": "rooms"},
            "small": SMALL,
            "full": {**FULL, "train": 367, "test": 233, "batch_size": 3},
        },
    ),
)
