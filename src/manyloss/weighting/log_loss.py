"""The sum of the losses' logarithms (the loss balance of Lin et al. 2023, "Dual-balancing", section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manyloss.weighting._base import LossWeighting


class LogLoss(LossWeighting):
    """The sum of log L_i, which does not depend on any loss's unit.

    w_i = 1 / L_i: every loss is asked for the same relative decrease.

    Raises:
        ValueError: a loss is 0 or negative.

    """

    accepts = "above 0"
    scale = "free"

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """1 / L. [T]"""
        return 1.0 / values
