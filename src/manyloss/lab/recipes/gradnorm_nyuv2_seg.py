"""GradNorm 2018, section 5 and table 1: depth, 13 classes and surface normals of indoor scenes.

**Network.** SegNet on 320x320, shared up to one last layer per task, outputs of 80x80. W is the last shared
convolution.

**Training.** Adam from 2e-5, times 0.2 every 6,000 of 20,000 steps, batches of 24; GradNorm's alpha is 1.5.
The paper trains on NYUv2's 795 images and tests on 654; here rooms are made, as many of them at full scale.

**Rows.** single (three), equal, gradnorm-static, gradnorm. `_dense` has the losses and the errors.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from manyloss.lab.models.segnet import SegNet
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._dense import (
    CHANNELS,
    LOSSES,
    METRICS,
    SUBSTITUTE,
    DenseRooms,
    of_tasks,
    starting_at_typical_depth,
)

TASKS = ("depth", "segmentation", "normals")
#: Where the learning rate falls, as a share of the training, and by how much.
DECAY_AFTER, DECAY = 0.3, 0.2


class Rooms(DenseRooms):
    """How far, what, and which way does it face?"""

    name = "gradnorm-nyuv2-seg"
    losses = of_tasks(LOSSES, TASKS)
    metrics = of_tasks(METRICS, TASKS)

    def encoder(self) -> nn.Module:
        """SegNet up to its last features."""
        return SegNet(self.width, self.doublings)

    def heads(self) -> Mapping[str, nn.Module]:
        """One layer each."""
        features = SegNet(self.width, self.doublings).channels
        return starting_at_typical_depth({task: nn.Conv2d(features, CHANNELS[task], 1) for task in TASKS})

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The paper's steps, at the same shares of the training."""
        return StepLR(optimizer, max(1, round(DECAY_AFTER * self.epochs)), DECAY)


recipe = Recipe(
    name="gradnorm-nyuv2-seg",
    summary="Depth, 13 classes and normals of indoor scenes (at small of made rooms), "
    "all but the last layer shared.",
    problem=Rooms,
    arms=("single:depth", "single:segmentation", "single:normals", "equal", "gradnorm", "gradnorm-static"),
    seeds=3,
    paper="GradNorm (2018), section 5.2, table 1",
    departures=(
        *SUBSTITUTE,
        "Small is 80x80 in and out, 400 rooms, an eighth of the width, 1,200 steps of 8, Adam from 1e-3.",
        "Full is the paper's network, sizes, batch, learning rate and number of steps.",
        "Segmentation error is 1 - mean IoU over the 13 classes; the paper's table has percent.",
    ),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "image": 32, "width": 2, "train": 8, "test": 4, "batch_size": 4},
        "small": {"epochs": 24, "seeds": 3},
        "full": {
            "epochs": 606,
            "seeds": 3,
            "image": 320,
            "stride": 4,
            "width": 64,
            "train": 795,
            "test": 654,
            "lr": 2e-5,
            "batch_size": 24,
        },
    },
)
