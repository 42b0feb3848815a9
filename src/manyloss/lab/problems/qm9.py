"""QM9's 499 molecules: twelve properties without a common unit, from the pieces of a SMILES string.

Every property is scaled to mean 0 and variance 1 on the molecules that are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric

from manyloss.lab.datasets import default_data_root, molecules
from manyloss.lab.problem import Problem, Splits
from manyloss.lab.problems.tox21 import WIDTH, perceptron, split
from manyloss.lab.recipes import Recipe


class Qm9(Problem):
    """Option: ``data_root``."""

    name = "qm9"
    epochs = 60
    batch_size = 32
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(molecules.QM9, F.mse_loss)
    metrics: Mapping[str, Callable[[], Metric]] = dict.fromkeys(
        (f"{name}/error" for name in molecules.QM9), MeanAbsoluteError
    )

    def __init__(self, data_root: str | None = None) -> None:
        self.data_root = data_root

    def datasets(self, seed: int) -> Splits:
        """Drawn anew for every seed: 70 % to train, 10 % to validate, 20 % to test."""
        splits = split(molecules.qm9(default_data_root(self.data_root)), seed)
        trained_on = dict(splits.train.targets)  # type: ignore[union-attr]
        for part in (splits.train, splits.validation, splits.test):
            targets = part.targets  # type: ignore[union-attr]
            for name, values in trained_on.items():
                targets[name] = (targets[name] - values.mean()) / values.std()
        return splits

    def encoder(self) -> nn.Module:
        """[B, 512] -> [B, 64]"""
        return perceptron()

    def heads(self) -> Mapping[str, nn.Module]:
        """One number per property."""
        return {name: nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0)) for name in self.losses}


recipe = Recipe(
    name="qm9",
    summary="Twelve properties of 499 small molecules: mean absolute errors of scaled targets.",
    problem=Qm9,
    arms=("equal", "gradnorm", "pcgrad", "mgda"),
    seeds=5,
    paper="board",
    scales={"smoke": {"epochs": 1, "seeds": 1}, "small": {"seeds": 3}},
)
