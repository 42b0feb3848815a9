"""Dynamic weight average, DWA (Liu, Johns and Davison 2019, eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class DWAState(State):
    """Sums and counts of this epoch, means of the last one (NaN before it), and their ratios. [T] each"""

    sums: Tensor
    counts: Tensor
    last: Tensor
    ratios: Tensor


class DWA(LossWeighting):
    """w_i = T softmax(r_i / temperature), r_i = mean loss of the last epoch / mean loss of the one before.

    Call ``multi.end_epoch()`` after each epoch. r_i = 1 in the first two epochs, and for a loss that was
    absent from one of the two, or 0 throughout the one before.

    Args:
        temperature: the higher, the more equal; above 0.

    Raises:
        ValueError: a loss is negative, since a ratio of such means says nothing about progress.

    """

    name = "dwa"
    search: ClassVar = {"temperature": (1.0, 2.0, 5.0)}
    learns = DWAState
    state: DWAState

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        self.temperature = temperature

    def first_state(self, names: tuple[str, ...]) -> DWAState:
        """Equal ratios."""
        ones = torch.ones(len(names), dtype=torch.float64, device="cpu")
        return DWAState(sums=0 * ones, counts=0 * ones, last=torch.nan * ones, ratios=ones)

    def check(self, names: Sequence[str], values: Tensor | None) -> None:
        """No loss is negative."""
        assert values is not None
        for name, value in zip(names, values.tolist(), strict=True):
            if value < 0.0:
                raise ValueError(
                    f"DWA: the value of loss {name!r} is {value:g}, but ratios of mean losses make sense for "
                    "losses of 0 and more only: shift the loss."
                )

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """T softmax(r / temperature). [T]"""
        ratios = self.state.ratios[self.positions(names)]
        return len(names) * torch.softmax(ratios / self.temperature, dim=0)

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Add the step to the means of the epoch."""
        at = self.positions(names)
        self.state.sums[at] += values
        self.state.counts[at] += 1.0

    def end_epoch(self) -> None:
        """Form r from the epoch that ends and the one before."""
        if self.names is None:
            return
        state = self.state
        means = state.sums / state.counts  # NaN for a loss that was absent
        ratios = torch.where(state.last > 0, means / state.last, torch.nan)
        self.state = DWAState(
            sums=torch.zeros_like(means),
            counts=torch.zeros_like(means),
            last=means,
            ratios=torch.where(ratios.isnan(), 1.0, ratios),
        )
