"""IMTL-L (Liu et al. 2021, "Towards impartial multi-task learning", section 3.2 and eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manyloss.state import InnerOptimizer, OptimizerFactory, State
from manyloss.weighting._base import LossWeighting


@dataclass
class IMTLLState(State):
    """s of every loss."""

    log_scales: list[float]


class IMTLL(LossWeighting):
    """Learned scales that bring all losses to the same value.

    minimise sum_i exp(s_i) L_i - s_i, s starting at 0: w_i = exp(s_i), d/ds_i = w_i L_i - 1, so at rest
    w_i L_i = 1. The derivative is taken in closed form; nothing of it reaches the model.

    Args:
        lr: of the own Adam.
        optimizer: parameters -> Optimizer, in place of Adam.

    Raises:
        ValueError: a loss is negative, since s would grow without end.

    """

    name = "imtl-l"
    accepts = "0 and more"
    scale = "free"
    search: ClassVar = {"lr": (0.001, 0.025)}
    learns = IMTLLState
    state: IMTLLState
    inner: InnerOptimizer

    def __init__(self, lr: float = 0.025, *, optimizer: OptimizerFactory | None = None) -> None:
        super().__init__()
        self.inner = InnerOptimizer(lr, optimizer)

    def first_state(self, names: tuple[str, ...]) -> IMTLLState:
        """All s are 0."""
        return IMTLLState([0.0] * len(names))

    def _scales(self, names: Sequence[str]) -> list[float]:
        return [math.exp(self.state.log_scales[i]) for i in self.positions(names)]

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """exp(s). [T]"""
        return self._scales(names)

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """One step of s."""
        slopes = [w * value - 1.0 for w, value in zip(self._scales(names), values.tolist(), strict=True)]
        self.inner.step_each(self.state.log_scales, slopes, self.positions(names))
