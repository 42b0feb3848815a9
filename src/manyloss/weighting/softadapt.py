"""SoftAdapt (Heydari, Thompson and Mehmood 2019, "SoftAdapt", section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from manyloss import checks
from manyloss.state import State
from manyloss.weighting._base import LossWeighting

VARIANTS = ("original", "normalized", "loss-weighted")


@dataclass
class SoftAdaptState(State):
    """The losses of the step before, NaN where there was none."""

    last: list[float]


class SoftAdapt(LossWeighting):
    """More weight for losses that rise, less for those that fall.

    s_i = L_i(t) - L_i(t - 1), w = softmax(beta s): "original". "normalized" divides s by sum |s_j| first;
    "loss-weighted" multiplies exp(beta s_i) with L_i before the weights are brought to sum 1. s_i = 0 at a
    loss's first step. Scale as published: the weights sum to 1; use a learning rate T times the sum's to
    compare.

    Args:
        beta: how strongly; above 0 favours the worst performing loss.
        variant: "original", "normalized" or "loss-weighted".

    Raises:
        ValueError: a loss is negative, for "loss-weighted".

    """

    name = "softadapt"
    scale = "convex combination"
    search: ClassVar = {"beta": (0.01, 0.1, 1.0), "variant": VARIANTS}
    learns = SoftAdaptState
    state: SoftAdaptState

    def __init__(
        self, beta: float = 0.1, variant: Literal["original", "normalized", "loss-weighted"] = "original"
    ) -> None:
        super().__init__()
        checks.finite("beta", beta)
        checks.one_of("variant", variant, VARIANTS)
        self.beta, self.variant = beta, variant
        self.accepts = "0 and more" if variant == "loss-weighted" else "any"

    def first_state(self, names: tuple[str, ...]) -> SoftAdaptState:
        """No loss seen yet."""
        return SoftAdaptState([math.nan] * len(names))

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """Softmax(beta s). [T]"""
        L = values.tolist()
        last = [self.state.last[i] for i in self.positions(names)]
        s = [0.0 if math.isnan(old) else now - old for now, old in zip(L, last, strict=True)]
        if self.variant == "normalized":
            total = sum(map(abs, s))
            s = [each / total if total else 0.0 for each in s]
        largest = max(self.beta * each for each in s)
        parts = [math.exp(self.beta * each - largest) for each in s]
        if self.variant == "loss-weighted" and any(L):
            parts = [part * now for part, now in zip(parts, L, strict=True)]
        whole = sum(parts)
        return [part / whole for part in parts] if whole else [1.0 / len(L)] * len(L)

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Keep the losses."""
        for i, value in zip(self.positions(names), values.tolist(), strict=True):
            self.state.last[i] = value
