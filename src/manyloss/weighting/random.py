"""Random weights (Lin et al. 2022, "Reasonable effectiveness of random weighting", RLW)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss.plan import Needs
from manyloss.weighting._base import LossWeighting


class Random(LossWeighting):
    """w = T softmax(z), z ~ N(0, I_T), drawn anew each step.

    Args:
        seed: of the own generator; drawn from torch's when None.

    """

    needs = Needs()

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed_with(seed)

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """The draw of this step. [T]"""
        z = torch.randn(len(names), generator=self.generator, dtype=torch.float64, device="cpu")
        return torch.softmax(z, dim=0).mul_(len(names))
