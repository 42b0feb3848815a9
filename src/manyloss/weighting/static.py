"""Static weights, chosen by hand or by GradNorm's time average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from manyloss import checks
from manyloss.plan import Needs
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class StaticState(State):
    """The weights in the order of the losses."""

    weights: list[float]


class Static(LossWeighting):
    """w_i fixed for the whole training.

    Args:
        weights: mapping from name to weight, a sequence in the order of the losses, or one for all; each 0 or
            more.

    Raises:
        TypeError, ValueError: a weight is no number, negative or not finite; at the first step, the losses
            are others.

    """

    needs = Needs()
    scale = "free"
    per_loss = "weights"
    learns = StaticState
    state: StaticState

    def __init__(self, weights: float | Mapping[str, float] | Sequence[float] | Tensor) -> None:
        super().__init__()
        for weight in checks.each(weights):
            checks.not_negative("weights of Static", weight)
        self.weights = weights

    def first_state(self, names: tuple[str, ...]) -> StaticState:
        """Every loss's weight."""
        return StaticState(list(checks.per_loss("Static", "weights", self.weights, names).values()))

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """The fixed weights. [T]"""
        return [self.state.weights[i] for i in self.positions(names)]
