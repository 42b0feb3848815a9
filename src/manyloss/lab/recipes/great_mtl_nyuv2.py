"""GREAT 2018, table 4 (right): depth, normals and 48 room keypoints, with gradient alignment layers.

**Network.** A dilated ResNet of 43 layers, 320x320 to 512 channels of 40x40, is shared; each task has a
decoder of one upsampling and three convolutions, to 80x80.

**Losses.** Squared error of the depth, 1 - |cos| of the normals, squared distance of the heat maps; with
great and initial-loss each is divided by its first value. **Errors.** RMSE of the depth in metres, 1 - |cos|,
RMSE of the heat maps.

**Rows.** equal; uncertainty, weights normalised to sum 1; gradnorm, alpha 1.5; great. Not in the paper:
single (three), and initial-loss, which is great without the layers. All that learns follows the main
schedule: Adam at 1e-3, times (1 - e/E)^0.9, for 30 epochs.

The paper has 26,328 and 18,582 frames of NYUv2, whose keypoints were never published; here rooms are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric

from manyloss.lab.arms import BUILT_IN, Arm
from manyloss.lab.metrics import AbsoluteCosineDistance, DepthError
from manyloss.lab.models.dilated_resnet import CHANNELS as FEATURES
from manyloss.lab.models.dilated_resnet import dilated_resnet, task_decoder
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._dense import (
    CHANNELS,
    LOSSES,
    SUBSTITUTE,
    DenseRooms,
    absolute_cosine_distance,
    heat_maps,
    of_tasks,
    starting_at_typical_depth,
)
from manyloss.lab.recipes._great import ALIGNED, PapersTraining
from manyloss.lab.recipes._kinds import uncertainty

TASKS = ("depth", "normals", "keypoints")
LEARNING_RATE = 1e-3


class HeatMapError(MeanSquaredError):
    """The root of the mean squared error of heat maps."""

    def __init__(self) -> None:
        super().__init__(squared=False)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: maps [B, K, H, W] and places [B, K, 2]."""
        super().update(output, heat_maps(target, *output.shape[2:]))


class AlignedRooms(PapersTraining, DenseRooms):
    """How far is it, which way does it face, and where are the room's corners?"""

    name = "great-mtl-nyuv2"
    sources = ("rooms",)
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {
        **of_tasks(LOSSES, TASKS),
        "normals": absolute_cosine_distance,
    }
    metrics: Mapping[str, Callable[[], Metric]] = {
        "depth/RMSE": DepthError,
        "normals/1-|cos|": AbsoluteCosineDistance,
        "keypoints/RMSE": HeatMapError,
    }
    arms: Mapping[str, Arm] = {
        **uncertainty(TASKS, lr=LEARNING_RATE, normalize=1.0),
        "gradnorm": BUILT_IN["gradnorm"].with_defaults(
            "GradNorm with its own alpha of 1.5 for these tasks.", alpha=1.5, lr=LEARNING_RATE
        ),
        "great": ALIGNED,
    }

    def __init__(
        self,
        image: int = 64,
        width: int = 2,
        train: int = 400,
        test: int = 200,
        lr: float = LEARNING_RATE,
        batch_size: int = 8,
    ) -> None:
        super().__init__(
            image=image, stride=4, width=width, train=train, test=test, lr=lr, batch_size=batch_size
        )

    def encoder(self) -> nn.Module:
        """The dilated ResNet."""
        return dilated_resnet(self.width)

    def heads(self) -> Mapping[str, nn.Module]:
        """A decoder each."""
        return starting_at_typical_depth(
            {task: task_decoder(FEATURES * self.width, CHANNELS[task]) for task in TASKS}
        )


recipe = Recipe(
    name="great-mtl-nyuv2",
    summary="Depth, normals and 48 room keypoints of indoor scenes, with gradient alignment layers.",
    problem=AlignedRooms,
    arms=(*(f"single:{task}" for task in TASKS), "equal", "uncertainty", "gradnorm", "great", "initial-loss"),
    seeds=3,
    epochs=30,
    paper="Gradient Adversarial Training of Neural Networks (2018), table 4 right",
    departures=(
        "The paper chooses no epoch: the last one is tested.",
        *SUBSTITUTE,
        "The text speaks of a ResNet-53, the supplement of 43 layers, which it is here.",
        "The decoders' channels halve, and upsampling is to the nearest pixel: the paper gives neither.",
        "Batches of 8, and 16 at full scale: the paper gives none.",
        "The paper's keypoint errors near 0.4 are of maps on a scale that it does not give; ours peak at 1.",
        "Small is 64x64 in, 16x16 out, 400 rooms, an eighth of the width, 25 epochs.",
        "At full scale 3,000 rooms stand for 26,328 frames.",
    ),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "image": 32, "width": 1, "train": 8, "test": 4, "batch_size": 4},
        "small": {"epochs": 25, "seeds": 3},
        "full": {
            "epochs": 30,
            "seeds": 3,
            "image": 320,
            "width": 16,
            "train": 3000,
            "test": 300,
            "batch_size": 16,
        },
    },
)
