"""Static weights, chosen by hand or by GradNorm's time average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manyloss import checks
from manyloss.weighting._base import LossWeighting


class Static(LossWeighting):
    """w_i fixed for the whole training.

    Args:
        weights: mapping from name to weight, or a sequence in the order of the losses; each 0 or more.

    Raises:
        ValueError: a weight is negative or not finite; at the first step, the losses are others.

    """

    def __init__(self, weights: Mapping[str, float] | Sequence[float] | Tensor) -> None:
        super().__init__()
        if isinstance(weights, Tensor):
            weights = weights.tolist()
        for weight in weights.values() if isinstance(weights, Mapping) else weights:
            checks.not_negative("weights of Static", float(weight))
        self.weights = weights

    def bind(self, names: tuple[str, ...]) -> None:
        """Give every loss its weight."""
        self.memory["weights"] = checks.per_loss("Static", "weights", self.weights, names)

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """The fixed weights. [T]"""
        return torch.tensor([self.memory["weights"][name] for name in names], dtype=torch.float64)
