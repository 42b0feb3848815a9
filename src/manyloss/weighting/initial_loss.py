"""Losses divided by their initial values (GREAT, Algorithm 3, lines 2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyloss import checks
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class InitialLossState(State):
    """L(0) of every loss, NaN before it was seen. [T]"""

    initial: Tensor


class InitialLoss(LossWeighting):
    """w_i = 1 / L_i(0), with L_i(0) the loss at the first step in which it is present.

    Raises:
        ValueError: an initial loss is 0 or negative.

    """

    learns = InitialLossState
    state: InitialLossState

    def first_state(self, names: tuple[str, ...]) -> InitialLossState:
        """Nothing seen yet."""
        return InitialLossState(torch.full((len(names),), torch.nan, dtype=torch.float64, device="cpu"))

    def check(self, names: Sequence[str], values: Tensor | None) -> None:
        """A first value is above 0."""
        assert values is not None
        for name, first in zip(names, self._firsts(names, values).tolist(), strict=True):
            checks.positive_loss("InitialLoss", name, first, "the initial value")

    def _firsts(self, names: Sequence[str], values: Tensor) -> Tensor:
        known = self.state.initial[self.positions(names)]
        return torch.where(known.isnan(), values, known)

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """1 / L(0). [T]"""
        return 1.0 / self._firsts(names, values)

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Keep the first values."""
        self.state.initial[self.positions(names)] = self._firsts(names, values)
