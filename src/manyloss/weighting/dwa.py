"""Dynamic weight average, DWA (Liu, Johns and Davison 2019, eq. 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.linalg import vector
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class DWAState(State):
    """Sums and counts of this epoch, means of the last one (NaN before it), and their ratios."""

    sums: list[float]
    counts: list[float]
    last: list[float]
    ratios: list[float]


class DWA(LossWeighting):
    """More weight for losses that fell less over the last two epochs.

    w_i = T softmax(r_i / temperature), r_i = mean loss of the last epoch / mean loss of the one before.
    Call ``multi.end_epoch()`` after each epoch. r_i = 1 in the first two epochs, and for a loss that was
    absent from one of the two, or 0 throughout the one before.

    Args:
        temperature: the higher, the more equal; above 0.

    Raises:
        ValueError: a loss is negative, since a ratio of such means says nothing about progress.

    """

    name = "dwa"
    accepts = "0 and more"
    search: ClassVar = {"temperature": (1.0, 2.0, 5.0)}
    learns = DWAState
    state: DWAState

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        self.temperature = temperature

    def first_state(self, names: tuple[str, ...]) -> DWAState:
        """Equal ratios."""
        T = len(names)
        return DWAState(sums=[0.0] * T, counts=[0.0] * T, last=[math.nan] * T, ratios=[1.0] * T)

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """T softmax(r / temperature). [T]"""
        ratios = [self.state.ratios[i] / self.temperature for i in self.positions(names)]
        return torch.softmax(vector(ratios), dim=0).mul_(len(names))

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Add the step to the means of the epoch."""
        for i, value in zip(self.positions(names), values.tolist(), strict=True):
            self.state.sums[i] += value
            self.state.counts[i] += 1.0

    def end_epoch(self) -> None:
        """Form r from the epoch that ends and the one before."""
        if self.names is None:
            return
        state = self.state
        means = [s / n if n else math.nan for s, n in zip(state.sums, state.counts, strict=True)]
        ratios = [now / last if last > 0.0 else math.nan for now, last in zip(means, state.last, strict=True)]
        fresh = self.first_state(self.names)
        self.state = replace(fresh, last=means, ratios=[1.0 if math.isnan(r) else r for r in ratios])
