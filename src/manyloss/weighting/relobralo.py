"""ReLoBRaLo (Bischof and Kraus 2021, "Multi-objective loss balancing for PINNs", eq. 11 to 14)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class ReLoBRaLoState(State):
    """Weights, and the losses of the first and of the last step, NaN where there was none."""

    weights: list[float]
    first: list[float]
    last: list[float]


class ReLoBRaLo(LossWeighting):
    """Relative loss balancing with random lookback: more weight for losses that made less progress.

    b(t, u) = T softmax_i(L_i(t) / (temperature L_i(u))),
    w(t) = alpha (R w(t - 1) + (1 - R) b(t, 0)) + (1 - alpha) b(t, t - 1), R ~ Bernoulli(rho), w(0) = 1: now
    and then the progress since the beginning counts in place of the weights so far.

    Args:
        alpha: how much of the weights is kept, in [0, 1].
        temperature: the higher, the more equal; above 0.
        rho: how seldom it looks back, in [0, 1].
        seed: of the own generator; drawn from torch's when None.

    Raises:
        ValueError: a loss is 0 or negative.

    """

    name = "relobralo"
    accepts = "above 0"
    search: ClassVar = {"alpha": (0.9, 0.99, 0.999), "temperature": (0.01, 0.1, 1.0), "rho": (0.9, 0.999)}
    learns = ReLoBRaLoState
    state: ReLoBRaLoState

    def __init__(
        self, alpha: float = 0.999, temperature: float = 0.1, rho: float = 0.99, seed: int | None = None
    ) -> None:
        super().__init__()
        checks.within("alpha", alpha, 0.0, 1.0)
        checks.positive("temperature", temperature)
        checks.within("rho", rho, 0.0, 1.0)
        self.alpha, self.temperature, self.rho = alpha, temperature, rho
        self.seed_with(seed)

    def first_state(self, names: tuple[str, ...]) -> ReLoBRaLoState:
        """Ones."""
        T = len(names)
        return ReLoBRaLoState(weights=[1.0] * T, first=[math.nan] * T, last=[math.nan] * T)

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """w(t). [T]"""
        state, at, L = self.state, self.positions(names), values.tolist()
        keeps = bool(torch.rand((), generator=self.generator, device="cpu") < self.rho)
        weights = list(state.weights)
        since_first = self._balance(L, [state.first[i] for i in at])
        since_last = self._balance(L, [state.last[i] for i in at])
        for i, b_first, b_last in zip(at, since_first, since_last, strict=True):
            if not math.isnan(state.last[i]):  # its first step keeps the weight it has
                history = weights[i] if keeps else b_first
                weights[i] = self.alpha * history + (1.0 - self.alpha) * b_last
        first, last = list(state.first), list(state.last)
        for i, value in zip(at, L, strict=True):
            first[i] = value if math.isnan(first[i]) else first[i]
            last[i] = value
        self.pending = ReLoBRaLoState(weights, first, last)
        return [weights[i] for i in at]

    def _balance(self, L: Sequence[float], before: Sequence[float]) -> list[float]:
        """b(t, u) over the losses present; one that was not there yet has made no progress."""
        ratios = [1.0 if math.isnan(old) else now / old for now, old in zip(L, before, strict=True)]
        largest = max(ratios)
        powers = [math.exp((ratio - largest) / self.temperature) for ratio in ratios]
        return [len(L) * power / sum(powers) for power in powers]
