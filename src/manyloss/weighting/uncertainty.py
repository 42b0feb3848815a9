"""Uncertainty weighting (Kendall, Gal and Cipolla 2018, eq. 7 and 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manyloss import checks
from manyloss.state import InnerOptimizer, OptimizerFactory
from manyloss.weighting._base import LossWeighting

KINDS = ("regression", "classification")


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

    def __init__(
        self,
        kinds: str | Mapping[str, str] | Sequence[str] = "regression",
        lr: float = 0.025,
        normalize: bool | float = False,
        *,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        given = [kinds] if isinstance(kinds, str) else kinds.values() if isinstance(kinds, Mapping) else kinds
        for kind in given:
            checks.one_of("kinds", kind, KINDS)
        if normalize is not True and normalize is not False:
            checks.positive("normalize", normalize)
        self.kinds = kinds
        self.normalize = normalize
        self.inner = InnerOptimizer(lr, optimizer)

    def bind(self, names: tuple[str, ...]) -> None:
        """One log-variance per loss."""
        self.memory["kinds"] = checks.per_loss("Uncertainty", "kinds", self.kinds, names)
        self.memory["log_variances"] = {name: torch.zeros((), dtype=torch.float64) for name in names}

    def _plain(self, names: Sequence[str]) -> Tensor:
        variances = torch.stack([self.memory["log_variances"][name] for name in names])
        halves = torch.tensor([0.5 if self.memory["kinds"][n] == "regression" else 1.0 for n in names])
        return halves.double() * torch.exp(-variances)

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """exp(-v), halved for regression, rescaled if asked. [T]"""
        weights = self._plain(names)
        if self.normalize is False:
            return weights
        total = len(names) if self.normalize is True else float(self.normalize)
        return weights * (total / weights.sum())

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor | None) -> None:
        """One step of the log-variances."""
        assert self.inner is not None
        slopes = dict(zip(names, 0.5 - self._plain(names) * values, strict=True))
        every = self.memory["log_variances"]
        self.inner.step(list(every.values()), [slopes.get(name) for name in every])
