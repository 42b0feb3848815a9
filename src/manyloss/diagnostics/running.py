"""Mean and standard deviation of pairwise cosines, as they run: what CosReg's paper reports.

The paper takes the standard deviation over windows of 50 steps (Fig. 5), over the first epoch (Fig. 3) and
over the whole training (Table 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyloss.state import State

Span = Literal["window", "first_epoch", "training"]
WINDOW = 50


def pair_name(first: str, second: str) -> str:
    """The name of a pair of losses."""
    return f"{first}|{second}"


@dataclass
class RunningCosines(State):
    """The cosines of every pair of losses, R = T (T - 1) / 2 pairs.

    Attributes:
        training: count, mean, and sum of squared deviations from it. [3, R]
        first_epoch: the same over the first epoch. [3, R]
        window: the last steps, newest last, NaN where a pair was not seen. [50, R]
        epoch_ended: whether the first epoch is over.

    """

    training: Tensor
    first_epoch: Tensor
    window: Tensor
    epoch_ended: bool

    @classmethod
    def empty(cls, count: int) -> RunningCosines:
        """Nothing seen yet, of ``count`` losses."""
        R = count * (count - 1) // 2
        zeros = torch.zeros(3, R, dtype=torch.float64, device="cpu")
        window = torch.full((WINDOW, R), torch.nan, dtype=torch.float64, device="cpu")
        return cls(training=zeros, first_epoch=zeros.clone(), window=window, epoch_ended=False)

    def add(self, positions: Sequence[int], cosines: Tensor) -> None:
        """Take in one step's cosines of the losses at these positions. [T, T]"""
        T = round((1 + (1 + 8 * self.training.shape[1]) ** 0.5) / 2)
        every = np.full((T, T), np.nan)
        every[np.ix_(positions, positions)] = cosines.numpy()
        values = every[np.triu_indices(T, 1)]  # [R]
        window = self.window.numpy()
        window[:-1] = window[1:].copy()
        window[-1] = values
        _welford(self.training, values)
        if not self.epoch_ended:
            _welford(self.first_epoch, values)

    def std(self, names: Sequence[str], span: Span = "training") -> dict[str, float]:
        """Standard deviation per pair seen, named ``"a|b"``; nan before the second value."""
        count, _, squares = (self.first_epoch if span == "first_epoch" else self.training).numpy()
        if span == "window":
            window = self.window.numpy()
            known = ~np.isnan(window)
            count = known.sum(0)
            means = np.where(known, window, 0.0).sum(0) / np.maximum(count, 1)
            squares = np.where(known, (window - means) ** 2, 0.0).sum(0)
        sigma = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
        return self._named(names, sigma)

    def mean(self, names: Sequence[str]) -> dict[str, float]:
        """Mean over the training per pair seen."""
        return self._named(names, self.training[1].numpy())

    def _named(self, names: Sequence[str], numbers: np.ndarray) -> dict[str, float]:
        pairs = [pair_name(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]
        seen = (self.training[0] > 0).tolist()
        return {pair: n for pair, n, known in zip(pairs, numbers.tolist(), seen, strict=True) if known}


def _welford(summary: Tensor, values: np.ndarray) -> None:
    """Count, mean and squares [3, R] with one more value each, unless it is NaN."""
    count, mean, squares = summary.numpy()  # views of the same memory
    known = ~np.isnan(values)
    count += known
    delta = np.where(known, values - mean, 0.0)
    mean += delta / np.maximum(count, 1)
    squares += delta * np.where(known, values - mean, 0.0)
