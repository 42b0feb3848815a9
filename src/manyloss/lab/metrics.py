"""Metrics of the papers that torchmetrics does not have."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex


class ErrorRate(MulticlassAccuracy):
    """One minus the accuracy."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """The share of wrong answers."""
        return 1 - super().compute()


class _MeanDistance(Metric):
    """A mean of distances, in float64: `of_each` says which."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        for state in ("total", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """What the mean is taken of, from a batch."""

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch."""
        distances = self.of_each(output, target).double()
        self.total += distances.sum()
        self.count += distances.numel()

    def compute(self) -> Tensor:
        """The mean over all that was added."""
        return self.total / self.count


class KeypointDistance(_MeanDistance):
    """The mean distance of landmarks from their places, over the distance of the first two, the eyes'.

    Whatever the unit of the coordinates, the error is a share of the distance between the eyes.
    """

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """The error of each face [B], from x, y, x, y, ... [B, 2K]."""
        places, truth = (points.double().reshape(len(points), -1, 2) for points in (output, target))
        between_eyes = (truth[:, 0] - truth[:, 1]).norm(dim=1)
        errors: Tensor = (places - truth).norm(dim=2).mean(1) / between_eyes
        return errors


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


class CosineDistance(_MeanDistance):
    """The mean over pixels of 1 - cos of the angle between two vectors, along axis 1."""

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """Of each pixel whose target is not 0 [P], from two [B, 3, H, W]."""
        known = target.square().sum(1) > 0
        return (1 - F.cosine_similarity(output, target, dim=1))[known]


class AbsoluteCosineDistance(CosineDistance):
    """As `CosineDistance`, of 1 - |cos|: a normal and its opposite are one."""

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """Of each pixel whose target is not 0 [P], from two [B, 3, H, W]."""
        return 1 - (1 - super().of_each(output, target)).abs()


class DepthError(MeanSquaredError):
    """The root of the mean squared error of the pixels whose depth is known (over 0)."""

    def __init__(self) -> None:
        super().__init__(squared=False)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch, two [B, 1, H, W] in one unit."""
        known = target > 0
        super().update(output[known], target[known])


class HeatMapDistance(_MeanDistance):
    """The mean distance of keypoints from the highest pixels of their maps, over the picture's diagonal.

    Only keypoints that are there count; places are (x, y) in units of width and height.
    """

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """Of each keypoint that is there [P], from maps [B, K, H, W] and places [B, K, 2] (NaN: none)."""
        height, width = output.shape[2:]
        highest = output.flatten(2).argmax(2)
        x = (highest % width + 0.5) / width
        y = (highest.div(width, rounding_mode="floor") + 0.5) / height
        distances: Tensor = (torch.stack([x, y], 2) - target).norm(dim=2) / 2**0.5
        return distances[distances.isfinite()]


class CrossEntropy(_MeanDistance):
    """The mean cross-entropy of logits [B, C]: the test loss of a classifier."""

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        """Of each example [B], with classes [B]."""
        return F.cross_entropy(output, target, reduction="none")
