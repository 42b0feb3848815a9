"""Geometric loss strategy (Chennupati et al. 2019, "MultiNet++", eq. 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from manyloss.weighting._base import LossWeighting


class GeometricLoss(LossWeighting):
    """The geometric mean of the losses, which no loss's unit can change but in scale.

    L = (prod_i L_i)^(1/T), so w_i = L / (T L_i): all w_i L_i are equal.

    Raises:
        ValueError: a loss is 0 or negative.

    """

    name = "geometric"
    accepts = "above 0"
    scale = "free"

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """L / (T L_i). [T]"""
        logs = [math.log(value) for value in values.tolist()]
        mean = sum(logs) / len(logs)
        return [math.exp(mean - log) / len(logs) for log in logs]
