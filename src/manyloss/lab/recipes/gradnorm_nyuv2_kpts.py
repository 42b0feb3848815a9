"""GradNorm 2018, section 5 and table 2, figures 3 and 5: depth, 48 room keypoints and normals, two networks.

**Networks.** 320x320 in, 80x80 out, shared up to one last layer per task: VGG SegNet (29 M parameters) and a
thin ResNet-50 FCN (15 M) that learns its upsampling. W is the last shared convolution.

**Training.** Adam from 2e-5, times 0.2 every 25,000 of 80,000 steps, batches of 24; GradNorm's alpha is 1.5,
the rate of all weights 0.025. The paper has 90,000 frames, 90 % of them for training, with keypoints by
professional annotators that were never published; here rooms are made.

**Rows.** single (three), equal, uncertainty, gradnorm-static, gradnorm; for the SegNet also alpha 0.5, whose
weights figure 5 puts beside those of 1.5. Figure 3 is the report's learning curves, figure 5 its weights over
time, figure 6 its pictures. `_dense` has the losses and the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from manyloss.checks import one_of
from manyloss.lab.models.segnet import SegNet
from manyloss.lab.models.thin_fcn import thin_fcn
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._dense import (
    CHANNELS,
    LOSSES,
    METRICS,
    SUBSTITUTE,
    DenseRooms,
    heat_map_distance,
    of_tasks,
    starting_at_typical_depth,
)

TASKS = ("depth", "keypoints", "normals")
#: Where the learning rate falls, as a share of the training, and by how much.
DECAY_AFTER, DECAY = 25 / 80, 0.2
ROWS = (*(f"single:{task}" for task in TASKS), "equal", "uncertainty", "gradnorm", "gradnorm-static")


def averaged_heat_maps(output: Tensor, target: Tensor) -> Tensor:
    """As `heat_map_distance`, but a mean over the maps."""
    return heat_map_distance(output, target) / CHANNELS["keypoints"]


class KeypointRooms(DenseRooms):
    """How far is it, where are the room's corners, and which way does it face? By a SegNet.

    Args:
        keypoints: whether the squared distance of the maps is "summed" or "averaged" over them.
        options: of `DenseRooms`.

    """

    name = "gradnorm-nyuv2-kpts"
    losses = of_tasks(LOSSES, TASKS)
    metrics = of_tasks(METRICS, TASKS)
    sources = ("rooms",)

    def __init__(self, image: int = 64, stride: int = 2, keypoints: str = "summed", **options: Any) -> None:
        one_of("keypoints", keypoints, ("summed", "averaged"))
        super().__init__(image=image, stride=stride, **options)
        if keypoints == "averaged":
            self.losses = {**self.losses, "keypoints": averaged_heat_maps}

    def encoder(self) -> nn.Module:
        """SegNet up to its last features."""
        return SegNet(self.width, self.doublings)

    def features(self) -> int:
        """How many channels the encoder's features have."""
        return SegNet(self.width, self.doublings).channels

    def heads(self) -> Mapping[str, nn.Module]:
        """One layer each."""
        features = self.features()
        return starting_at_typical_depth({task: nn.Conv2d(features, CHANNELS[task], 1) for task in TASKS})

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The paper's steps, at the same shares of the training."""
        return StepLR(optimizer, max(1, round(DECAY_AFTER * self.epochs)), DECAY)


class KeypointRoomsByFcn(KeypointRooms):
    """The same by the thin FCN."""

    name = "gradnorm-nyuv2-kpts-resnet"
    channels_last = False  # which is slower for this network

    def encoder(self) -> nn.Module:
        """The FCN up to its last features."""
        return thin_fcn(self.width, self.doublings)

    def features(self) -> int:
        """The channels halve with every doubling of the side."""
        return 16 * self.width >> self.doublings


DEPARTURES = (
    *SUBSTITUTE,
    "The keypoint loss is summed over the 48 maps (as the squared distance of vectors is) and their "
    "Gaussians have a standard deviation of 1/32 of the side: the paper gives neither.",
    "The keypoint error is of the corners that are in the picture, whichever type of room the network sees.",
    "Small is 64x64 in, 32x32 out, 400 rooms, an eighth of the width, 1,500 steps of 8, Adam from 1e-3.",
    "Full is the paper's network, sizes, batch, learning rate and number of steps; 3,000 rooms stand for "
    "81,000 frames.",
)
SCALES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"epochs": 1, "seeds": 1, "image": 32, "width": 2, "train": 8, "test": 4, "batch_size": 4},
    "small": {"epochs": 30, "seeds": 3},
    "full": {
        "epochs": 640,
        "seeds": 3,
        "image": 320,
        "stride": 4,
        "width": 64,
        "train": 3000,
        "test": 300,
        "lr": 2e-5,
        "batch_size": 24,
    },
}

recipes = (
    Recipe(
        name="gradnorm-nyuv2-kpts",
        summary="Depth, 48 room keypoints and normals of indoor scenes, by a SegNet that all share.",
        problem=KeypointRooms,
        arms=(*ROWS, "gradnorm:alpha=0.5"),
        seeds=3,
        paper="GradNorm (2018), section 5.2, table 2 (VGG), figures 3 and 5",
        departures=DEPARTURES,
        scales=SCALES,
    ),
    Recipe(
        name="gradnorm-nyuv2-kpts-resnet",
        summary="Depth, 48 room keypoints and normals of indoor scenes, by a thin ResNet that all share.",
        problem=KeypointRoomsByFcn,
        arms=ROWS,
        seeds=3,
        paper="GradNorm (2018), section 5.2, table 2 (ResNet)",
        departures=DEPARTURES,
        scales=SCALES,
    ),
)
