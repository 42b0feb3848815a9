"""Losses divided by their initial values (GREAT, Algorithm 3, lines 2 and 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from manyloss import checks
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class InitialLossState(State):
    """L(0) of every loss, NaN before it was seen."""

    initial: list[float]


class InitialLoss(LossWeighting):
    """w_i = 1 / L_i(0), with L_i(0) the loss at the first step in which it is present.

    Raises:
        ValueError: an initial loss is 0 or negative.

    """

    accepts = "first above 0"
    scale = "free"
    learns = InitialLossState
    state: InitialLossState

    def first_state(self, names: tuple[str, ...]) -> InitialLossState:
        """Nothing seen yet."""
        return InitialLossState([math.nan] * len(names))

    def check(self, names: Sequence[str], values: Tensor) -> None:
        """A first value is above 0."""
        for name, first in zip(names, self._firsts(names, values), strict=True):
            checks.positive_loss("InitialLoss", name, first, "the initial value")

    def _firsts(self, names: Sequence[str], values: Tensor) -> list[float]:
        known = [self.state.initial[i] for i in self.positions(names)]
        return [
            now if math.isnan(first) else first for first, now in zip(known, values.tolist(), strict=True)
        ]

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """1 / L(0). [T]"""
        return [1.0 / first for first in self._firsts(names, values)]

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Keep the first values."""
        for i, first in zip(self.positions(names), self._firsts(names, values), strict=True):
            self.state.initial[i] = first
