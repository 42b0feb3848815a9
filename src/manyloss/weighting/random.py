"""Random weights (Lin et al. 2022, "Reasonable effectiveness of random weighting", RLW)."""

from __future__ import annotations

import math
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

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """The draw of this step. [T]"""
        z = torch.randn(len(names), generator=self.generator, dtype=torch.float64, device="cpu").tolist()
        largest = max(z)
        shares = [math.exp(each - largest) for each in z]
        scale = len(z) / sum(shares)
        return [share * scale for share in shares]
