"""Equal weights: the plain sum of the losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss.plan import Needs
from manyloss.weighting._base import LossWeighting


class Equal(LossWeighting):
    """w_i = 1: the baseline that everything is compared with."""

    needs = Needs()

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """Ones. [T]"""
        return torch.ones(len(names), dtype=torch.float64, device="cpu")
