"""Random weights (Lin et al. 2022, "Reasonable effectiveness of random weighting", RLW)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss.weighting._base import LossWeighting


class Random(LossWeighting):
    """w = T softmax(z), z ~ N(0, I_T), drawn anew each step.

    Args:
        seed: of the own generator; drawn from torch's when None.

    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed_with(seed)

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """The draw of this step; the generator itself moves in :meth:`learn`. [T]"""
        assert self.generator is not None
        return self._draw(len(names), self.generator.clone_state())

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor | None) -> None:
        """Go on to the next draw."""
        assert self.generator is not None
        self._draw(len(names), self.generator)

    @staticmethod
    def _draw(T: int, generator: torch.Generator) -> Tensor:
        return T * torch.softmax(torch.randn(T, generator=generator, dtype=torch.float64), dim=0)
