"""The plain sum of the (weighted) gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manyloss.aggregation._base import Aggregator
from manyloss.plan import Needs


class Sum(Aggregator):
    """sum_i g_i: what a plain backward does."""

    needs = Needs()

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """[T, ...] -> [...]"""
        return gradients.sum(0)
