"""Losses divided by their initial values (GREAT, Algorithm 3, lines 2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss import checks
from manyloss.weighting._base import LossWeighting


class InitialLoss(LossWeighting):
    """w_i = 1 / L_i(0), with L_i(0) the loss at the first step in which it is present.

    Raises:
        ValueError: an initial loss is 0 or negative.

    """

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """1 / L(0). [T]"""
        initial = self.memory.get("initial", {})
        firsts = [initial.get(name, value) for name, value in zip(names, values.tolist(), strict=True)]
        for name, first in zip(names, firsts, strict=True):
            checks.positive_loss("InitialLoss", name, first, "the initial value")
        return 1.0 / torch.tensor(firsts, dtype=torch.float64)

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor | None) -> None:
        """Keep the first values."""
        initial = self.memory.setdefault("initial", {})
        for name, value in zip(names, values.tolist(), strict=True):
            initial.setdefault(name, value)
