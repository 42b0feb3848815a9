"""Uncertainty weighting (Kendall, Gal and Cipolla 2018, eq. 7 and 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manyloss import checks
from manyloss.state import InnerOptimizer, OptimizerFactory, State
from manyloss.weighting._base import LossWeighting

KINDS = ("regression", "classification")


@dataclass
class UncertaintyState(State):
    """v of every loss, and the factor of exp(-v) that its kind asks for."""

    log_variances: list[float]
    factors: list[float]


class Uncertainty(LossWeighting):
    """Weights from learned variances s^2 = exp(v), v starting at 0.

    regression: L / (2 s^2) + log s, so w = exp(-v) / 2 and d/dv = -w L + 1/2
    classification: L / s^2 + log s, so w = exp(-v) and d/dv = -w L + 1/2

    The derivative is taken in closed form; nothing of it reaches the model.

    Args:
        kinds: "regression" or "classification" for all losses, or one per loss (mapping or sequence).
        lr: of the own Adam.
        normalize: True rescales the weights to sum T, a number to that sum (1.0 is the GREAT supplement's);
            the log-variances are learned as if there were no rescaling.
        optimizer: parameters -> Optimizer, in place of Adam.

    Raises:
        ValueError: an unknown kind, or kinds for other losses.

    """

    search: ClassVar = {"lr": (0.001, 0.025)}
    scale = "free"
    learns = UncertaintyState
    state: UncertaintyState
    inner: InnerOptimizer

    def __init__(
        self,
        kinds: str | Mapping[str, str] | Sequence[str] = "regression",
        lr: float = 0.025,
        normalize: bool | float = False,
        *,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        for kind in checks.each(kinds):
            checks.one_of("kinds", kind, KINDS)
        if normalize is not True and normalize is not False:
            checks.positive("normalize", normalize)
        self.kinds = kinds
        self.normalize = normalize
        self.inner = InnerOptimizer(lr, optimizer)

    def first_state(self, names: tuple[str, ...]) -> UncertaintyState:
        """All v are 0."""
        kinds = checks.per_loss("Uncertainty", "kinds", self.kinds, names).values()
        factors = [0.5 if kind == "regression" else 1.0 for kind in kinds]
        return UncertaintyState(log_variances=[0.0] * len(names), factors=factors)

    def _plain(self, names: Sequence[str]) -> list[float]:
        state = self.state
        return [state.factors[i] * math.exp(-state.log_variances[i]) for i in self.positions(names)]

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """exp(-v), halved for regression, rescaled if asked. [T]"""
        weights = self._plain(names)
        if self.normalize is not False:
            total = len(names) if self.normalize is True else float(self.normalize)
            scale = total / sum(weights)
            weights = [scale * weight for weight in weights]
        return weights

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """One step of the log-variances."""
        slopes = [0.5 - w * value for w, value in zip(self._plain(names), values.tolist(), strict=True)]
        self.inner.step_each(self.state.log_variances, slopes, self.positions(names))
