"""Metrics of the papers that torchmetrics does not have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex


class ErrorRate(MulticlassAccuracy):
    """One minus the accuracy."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """The share of wrong answers."""
        return 1 - super().compute()


class KeypointDistance(Metric):
    """The mean distance of landmarks from their places, over the distance of the first two, the eyes'.

    Whatever the unit of the coordinates, the error is a share of the distance between the eyes.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        for state in ("total", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """The error of each face [B], from x, y, x, y, ... [B, 2K]."""
        places, truth = (points.double().reshape(len(points), -1, 2) for points in (output, target))
        between_eyes = (truth[:, 0] - truth[:, 1]).norm(dim=1)
        errors: Tensor = (places - truth).norm(dim=2).mean(1) / between_eyes
        return errors

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: two [B, 2K]."""
        errors = self.of_each(output, target)
        self.total += errors.sum()
        self.count += len(errors)

    def compute(self) -> Tensor:
        """The mean over the faces."""
        return self.total / self.count


class FailureRate(KeypointDistance):
    """The share of faces whose `KeypointDistance` is over 10 %."""

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    LIMIT = 0.1

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """1 for a failure, else 0. [B]"""
        return (super().of_each(output, target) > self.LIMIT).double()


class IoUDistance(MulticlassJaccardIndex):
    """One minus the mean intersection over union of the classes."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """Between 0, every pixel is right, and 1."""
        return 1 - super().compute()


class CosineDistance(Metric):
    """The mean over pixels of 1 - cos of the angle between two vectors, along axis 1."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        for state in ("total", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: two [B, 3, H, W]."""
        distances = 1 - F.cosine_similarity(output, target, dim=1)
        self.total += distances.double().sum()
        self.count += distances.numel()

    def compute(self) -> Tensor:
        """The mean over all pixels."""
        return self.total / self.count
