"""Dynamic weight average, DWA (Liu, Johns and Davison 2019, eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss import checks
from manyloss.weighting._base import LossWeighting


class DWA(LossWeighting):
    """w_i = T softmax(r_i / temperature), r_i = mean loss of the last epoch / mean loss of the one before.

    Call ``multi.end_epoch()`` after each epoch. r_i = 1 in the first two epochs, and for a loss that was
    absent from one of the two.

    Args:
        temperature: the higher, the more equal; above 0.

    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        self.temperature = temperature
        self.memory = {"sums": {}, "counts": {}, "last": {}, "ratios": {}}

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """T softmax(r / temperature). [T]"""
        ratios = torch.tensor([self.memory["ratios"].get(name, 1.0) for name in names], dtype=torch.float64)
        return len(names) * torch.softmax(ratios / self.temperature, dim=0)

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor | None) -> None:
        """Add the step to the means of the epoch."""
        sums, counts = self.memory["sums"], self.memory["counts"]
        for name, value in zip(names, values.tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1

    def end_epoch(self) -> None:
        """Form r from the epoch that ends and the one before."""
        sums, counts, last = self.memory["sums"], self.memory["counts"], self.memory["last"]
        means = {name: sums[name] / counts[name] for name in sums}
        self.memory["ratios"] = {
            name: mean / last[name] for name, mean in means.items() if last.get(name, 0.0) != 0.0
        }
        self.memory.update(sums={}, counts={}, last=means)
