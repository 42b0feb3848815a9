"""London's schools: the exam scores of 15,362 pupils from 28 facts about each, one regression per school.

139 losses, each on the pupils of the batch that are of its school.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric

from manyloss.lab import checks
from manyloss.lab.datasets import default_data_root
from manyloss.lab.datasets.files import find_file, read_mat
from manyloss.lab.problem import Features, Outputs, Splits, Targets, TensorSplit
from manyloss.lab.problems._separate import BatchSeparated
from manyloss.lab.recipes import Recipe

FILE, SCHOOLS, WIDTH = "school.mat", 139, 32
NAMES = tuple(f"school {i + 1:03d}" for i in range(SCHOOLS))
SCALE = 10.0
"""Points of the exam to one unit of the output."""


class SharedWithHeads(nn.Module):
    """An encoder, and one linear head per school: all scores are one product, [B, 139]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(28, WIDTH), nn.ReLU())
        self.heads = nn.Linear(WIDTH, SCHOOLS)

    def forward(self, facts: Tensor) -> tuple[Features, dict[str, Tensor]]:
        """Facts [B, 28] -> features [B, 32], scores [B, 139]."""
        features = self.encoder(facts)
        return features, {"score": self.heads(features)}


class School(BatchSeparated):
    """Option: ``data_root``."""

    name = "school"
    epochs = 15
    batch_size = 256
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(NAMES, F.mse_loss)
    metrics: Mapping[str, Callable[[], Metric]] = {
        "score/root mean square error": lambda: MeanSquaredError(squared=False)
    }

    def __init__(self, data_root: str | None = None) -> None:
        self.data_root = data_root

    def datasets(self, seed: int) -> Splits:
        """Drawn anew for every seed: 70 % to train, 10 % to validate, 20 % to test."""
        facts, score, school = _pupils(default_data_root(self.data_root))
        order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed))
        parts = order.tensor_split([int(0.7 * len(order)), int(0.8 * len(order))])
        return Splits(
            *(TensorSplit(facts[p], {"score": score[p] / SCALE, "school": school[p]}) for p in parts)
        )

    def model(self) -> nn.Module:
        """One encoder, 139 heads."""
        return SharedWithHeads()

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """Of every school that has a pupil in the batch."""
        schools = targets["school"]
        own = outputs["score"].gather(1, schools[:, None])[:, 0]  # [B]
        square = (own - targets["score"]).square()
        there = set(schools.tolist())
        return {
            name: square[schools == place].mean() if place in there else None
            for place, name in enumerate(NAMES)
        }

    def measured_losses(self, model: nn.Module, inputs: Any, targets: Targets) -> None:
        """139 gradients now and then would take longer than the training."""
        return

    def update_metrics(self, metrics: Mapping[str, Metric], outputs: Outputs, targets: Targets) -> None:
        """Over the pupils of all schools."""
        own = outputs["score"].gather(1, targets["school"][:, None])[:, 0]
        for metric in metrics.values():
            metric.update(SCALE * own, SCALE * targets["score"])


def _pupils(data_root: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Facts [N, 28], scores [N], and the number of the school [N]."""
    path = find_file("school", FILE, data_root, "MALSAR")
    facts, scores = (list(each.ravel()) for each in read_mat(path, "X", "Y"))
    if len(facts) != SCHOOLS or any(each.shape[1:] != (28,) for each in facts):
        raise checks.damaged_data(path, f"it has not {SCHOOLS} schools with 28 facts about each pupil")
    school = np.repeat(np.arange(SCHOOLS), [len(each) for each in scores])
    return (
        torch.from_numpy(np.concatenate(facts)).float(),
        torch.from_numpy(np.concatenate(scores)).float().flatten(),
        torch.from_numpy(school),
    )


recipe = Recipe(
    name="school",
    summary="Exam scores in 139 schools, a regression each: the error over all pupils.",
    problem=School,
    arms=("equal", "gradnorm", "mgda"),
    seeds=5,
    paper="board",
    scales={"smoke": {"epochs": 1, "seeds": 1}, "small": {"seeds": 3}},
)
