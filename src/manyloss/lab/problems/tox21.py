"""Tox21: twelve assays of one molecule, most labels missing somewhere.

Molecules come as counts of pieces of their SMILES strings; a perceptron is shared, each assay has a linear
head. A loss is the mean over the molecules of the batch that its assay has tested; with none it is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC

from manyloss.lab.datasets import default_data_root, molecules
from manyloss.lab.problem import Outputs, Problem, Splits, Targets, TensorSplit
from manyloss.lab.recipes import Recipe

WIDTH = 64


class Tox21(Problem):
    """Options: ``data_root``; ``molecules``, how many, None for all."""

    name = "tox21"
    epochs = 15
    batch_size = 128
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(
        molecules.TOX21, F.binary_cross_entropy_with_logits
    )
    metrics: Mapping[str, Callable[[], Metric]] = dict.fromkeys(
        (f"{name}/AUROC" for name in molecules.TOX21), BinaryAUROC
    )

    def __init__(self, data_root: str | None = None, molecules: int | None = None) -> None:
        self.data_root, self.count = data_root, molecules

    def datasets(self, seed: int) -> Splits:
        """Drawn anew for every seed: 70 % to train, 10 % to validate, 20 % to test."""
        found = molecules.tox21(default_data_root(self.data_root))
        return split(found, seed, self.count)

    def encoder(self) -> nn.Module:
        """[B, 512] -> [B, 64]"""
        return perceptron()

    def heads(self) -> Mapping[str, nn.Module]:
        """One logit per assay."""
        return {name: nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0)) for name in self.losses}

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """Of what was tested."""
        tested = {name: _tested(outputs[name], targets[name]) for name in outputs}
        return {name: self.losses[name](*pair) if len(pair[1]) else None for name, pair in tested.items()}

    def update_metrics(self, metrics: Mapping[str, Metric], outputs: Outputs, targets: Targets) -> None:
        """Of what was tested."""
        for name, metric in metrics.items():
            logits, labels = _tested(outputs[name.partition("/")[0]], targets[name.partition("/")[0]])
            if len(labels):
                metric.update(logits, labels.int())


def _tested(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    known = ~torch.isnan(labels)
    return logits[known], labels[known]


def perceptron() -> nn.Module:
    """[B, 512] -> [B, 64]"""
    first, second = nn.Linear(molecules.PIECES, WIDTH), nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def split(found: molecules.Molecules, seed: int, count: int | None = None) -> Splits:
    """Molecules in a drawn order: 70 % to train, 10 % to validate, 20 % to test."""
    features = torch.from_numpy(found.features)
    labels = {name: torch.from_numpy(values) for name, values in found.labels.items()}
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:count]
    parts = order.tensor_split([int(0.7 * len(order)), int(0.8 * len(order))])
    return Splits(
        *(TensorSplit(features[p], {name: values[p] for name, values in labels.items()}) for p in parts)
    )


recipe = Recipe(
    name="tox21",
    summary="Twelve assays of one molecule with missing labels: areas under the curve.",
    problem=Tox21,
    arms=("equal", "gradnorm", "pcgrad", "mgda"),
    seeds=5,
    paper="board",
    scales={"smoke": {"epochs": 1, "seeds": 1, "molecules": 600}, "small": {"seeds": 3}},
)
