"""STCH (Lin et al. 2024, "Smooth Tchebycheff scalarization for multi-objective optimization", eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.linalg import vector
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class STCHState(State):
    """Preferences and ideal values of the losses."""

    preferences: list[float]
    ideal: list[float]


class STCH(LossWeighting):
    """A smooth maximum of the losses: nearly all weight on the worst.

    minimise mu log sum_i exp(p_i (L_i - z_i) / mu), so w_i = p_i softmax_i(p (L - z) / mu). mu -> 0 is the
    maximum, a large mu the sum. Scale as published: the preferences p sum to 1 and the weights to less.

    Args:
        mu: smoothness, above 0.
        preferences: p, 0 or more: one per loss (mapping or sequence), or one for all; 1/T each when None.
        ideal: z, the value a loss would have at best: one number, or one per loss.

    """

    name = "stch"
    scale = "free"
    search: ClassVar = {"mu": (0.01, 0.1, 0.5, 1.0)}
    learns = STCHState
    state: STCHState

    def __init__(
        self,
        mu: float = 0.1,
        preferences: float | Mapping[str, float] | Sequence[float] | None = None,
        ideal: float | Mapping[str, float] | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        checks.positive("mu", mu)
        for each in () if preferences is None else checks.each(preferences):
            checks.not_negative("preferences of STCH", each)
        for each in checks.each(ideal):
            checks.finite("ideal of STCH", each)
        self.mu, self.preferences, self.ideal = mu, preferences, ideal

    def first_state(self, names: tuple[str, ...]) -> STCHState:
        """One preference and one ideal value per loss."""
        even = 1.0 / len(names)
        given = even if self.preferences is None else self.preferences
        return STCHState(
            preferences=list(checks.per_loss("STCH", "preferences", given, names).values()),
            ideal=list(checks.per_loss("STCH", "ideal", self.ideal, names).values()),
        )

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """The slopes p softmax(p (L - z) / mu). [T]"""
        at = self.positions(names)
        p = vector([self.state.preferences[i] for i in at])
        z = vector([self.state.ideal[i] for i in at])
        return p * torch.softmax(p * (values - z) / self.mu, dim=0)
