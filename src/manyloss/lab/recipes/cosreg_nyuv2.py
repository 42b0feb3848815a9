"""CosReg 2020, section 5.1 and table 2: segmentation, depth and normals, a SegNet with a decoder per task.

**Losses.** Cross-entropy per pixel; squared error in metres; squared error of normals that the network's
answers are scaled to. **Errors.** 1 - mean IoU, RMS, 1 - |cos|.

**Training.** 795 images of NYUv2, batches of 2, Adam at 1e-4 for 25 epochs. `_cosreg_dense` has the network
and the rows, `_dense` the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from manyloss.lab.arms import Arm
from manyloss.lab.metrics import AbsoluteCosineDistance
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._cosreg_dense import DEPARTURES, FULL, ROWS, SMALL, SMOKE, DecoderPerTask
from manyloss.lab.recipes._dense import CHANNELS, LOSSES, METRICS, REGRESSIONS, SUBSTITUTE, of_tasks
from manyloss.lab.recipes._kinds import uncertainty

TASKS = ("segmentation", "depth", "normals")


def squared_normals(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of unit vectors [B, 3, H, W], mean over what is known and the components."""
    known = (target.square().sum(1) > 0)[:, None]
    errors = (F.normalize(output, dim=1) - target).square() * known
    return errors.sum() / (3 * known.sum()).clamp(min=1)


class CosRegRooms(DecoderPerTask):
    """What, how far, and which way does it face?"""

    name = "cosreg-nyuv2"
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {
        **of_tasks(LOSSES, TASKS),
        "normals": squared_normals,
    }
    metrics: Mapping[str, Callable[[], Metric]] = {
        **of_tasks(METRICS, TASKS[:2]),
        "normals/1-|cos|": AbsoluteCosineDistance,
    }
    arms: Mapping[str, Arm] = uncertainty(REGRESSIONS)

    def channels(self) -> Mapping[str, int]:
        """The outputs of every task."""
        return {task: CHANNELS[task] for task in TASKS}


recipe = Recipe(
    name="cosreg-nyuv2",
    summary="Segmentation, depth and normals of indoor scenes, with a decoder for each.",
    problem=CosRegRooms,
    arms=(*(f"single:{task}" for task in TASKS), *ROWS),
    seeds=3,
    paper="Regularizing Deep Multi-Task Networks using Orthogonal Gradients (2020), section 5.1, table 2",
    departures=(
        *SUBSTITUTE,
        "13 classes: rooms have no background, the paper's fourteenth.",
        *DEPARTURES,
    ),
    scales={
        "smoke": SMOKE,
        "small": SMALL,
        "full": {**FULL, "train": 795, "test": 654, "batch_size": 2},
    },
)
