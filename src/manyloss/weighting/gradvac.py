"""GradVac (Wang et al. 2020, "Gradient vaccine", eq. 5 and Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.state import State
from manyloss.weighting._base import GradientWeighting


@dataclass
class GradVacState(State):
    """Moving averages of the cosines of the changed g_i with the original g_j. [T, T]"""

    goals: Tensor


class GradVac(GradientWeighting):
    """Each gradient is turned towards the others until its cosine with each is what it used to be.

    For every i and every j != i in random order, with f the cosine of the changed g_i and the original g_j
    and F its moving average, where f < F:
    g_i <- g_i + ||g_i|| (F sqrt(1 - f^2) - f sqrt(1 - F^2)) / (||g_j|| sqrt(1 - F^2)) g_j; then
    F <- (1 - beta) F + beta f. The changed g_i are summed. F = 0 at first, where it is PCGrad.

    Args:
        beta: rate of the moving average, in [0, 1]; 0 is PCGrad for ever.
        seed: of the own generator; drawn from torch's when None.

    """

    name = "gradvac"
    numbers = "projection coefficients"
    search: ClassVar = {"beta": (0.001, 0.01, 0.1, 0.5)}
    learns = GradVacState
    state: GradVacState

    def __init__(self, beta: float = 0.01, seed: int | None = None) -> None:
        super().__init__()
        checks.within("beta", beta, 0.0, 1.0)
        self.beta = beta
        self.seed_with(seed)

    def first_state(self, names: tuple[str, ...]) -> GradVacState:
        """All goals are right angles."""
        return GradVacState(torch.zeros(len(names), len(names), dtype=torch.float64, device="cpu"))

    def forward(self, gradients: LossGradients) -> Tensor:
        """Column sums of the changed gradients' coordinates. [T]"""
        G = gradients.gramian.numpy()  # [T, T]
        T = len(G)
        lengths = np.sqrt(np.maximum(G.diagonal(), 0.0)).tolist()
        at = np.ix_(*2 * [list(self.positions(gradients.names))])
        goals = self.state.goals.clone()
        F = goals.numpy()[at]
        orders = torch.rand(T, T, generator=self.generator, dtype=torch.float64, device="cpu").argsort(1)
        total = np.ones(T)
        for i, order in enumerate(orders.tolist()):
            if lengths[i] == 0.0:
                continue
            inner, square = G[i].copy(), lengths[i] ** 2  # <g_i, g_j>, ||g_i||^2 as g_i changes
            for j in order:
                if j == i or lengths[j] == 0.0:
                    continue
                length = math.sqrt(square)
                f = min(max(inner[j] / length / lengths[j], -1.0), 1.0) if length > 0.0 else 0.0
                goal = F[i, j]
                if f < goal and goal < 1.0 and length > 0.0:
                    towards = length * (goal * math.sqrt(1.0 - f * f) / math.sqrt(1.0 - goal * goal) - f)
                    share = towards / lengths[j]
                    total[j] += share
                    square = max(square + 2.0 * share * inner[j] + towards * towards, 0.0)
                    inner = inner + share * G[j]
                    if square <= 1e-14 * lengths[i] ** 2:  # as in one dimension: only rounding is left
                        square, inner = 0.0, 0.0 * inner
                F[i, j] = (1.0 - self.beta) * goal + self.beta * f
        goals.numpy()[at] = F
        self.pending = GradVacState(goals)
        return torch.from_numpy(total)
