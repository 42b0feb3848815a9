"""CAGrad (Liu et al. 2021, "Conflict-averse gradient descent", eq. 4 and Algorithm 1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from manyloss import checks, linalg
from manyloss.gradients import LossGradients
from manyloss.weighting._base import GradientWeighting


class CAGrad(GradientWeighting):
    """The step near the MEAN gradient g_0 that helps the worst loss most.

    max_d min_i <g_i, d>  with  ||d - g_0|| <= c ||g_0||; by duality, with g_w = sum w_i g_i,
    w = argmin over the simplex of <g_w, g_0> + c ||g_0|| ||g_w||, and d = g_0 + c ||g_0|| g_w / ||g_w||.
    Scale as published: about that of the mean gradient, 1/T of the sum; use ``rescale`` to compare.

    Args:
        c: radius in units of ||g_0||, 0 or more; 0 gives the mean gradient.

    """

    def __init__(self, c: float = 0.4) -> None:
        super().__init__()
        checks.not_negative("c", c)
        self.c = c

    def forward(self, gradients: LossGradients) -> Tensor:
        """1/T + c ||g_0|| w_i / ||g_w||. [T]"""
        G = gradients.gramian.numpy()
        T = len(G)
        largest = G.diagonal().max()
        mean = np.full(T, 1.0 / T)
        if largest <= 0.0:
            return torch.from_numpy(mean)
        G = G / largest
        radius = self.c * linalg.length(mean, G)
        if radius == 0.0:
            return torch.from_numpy(mean)
        w = self._dual(G, G @ mean, radius)
        length = linalg.length(w, G)
        return torch.from_numpy(mean + (radius / length) * w if length > 1e-10 else mean)

    @staticmethod
    def _dual(G: linalg.Array, slope: linalg.Array, radius: float) -> linalg.Array:
        """Argmin <w, slope> + radius sqrt(w^T G w), by sqrt(x) = min_s (x / s + s) / 2.

        For a fixed s the minimiser w(s) solves a quadratic program; ||g_w(s)|| - s changes sign once, at the
        solution, which is found by bisection on log s.
        """
        high = 1.0  # the longest gradient, as G is scaled
        low = 1e-12 * high

        def solve(s: float) -> tuple[linalg.Array, float]:
            w = linalg.simplex_quadratic(G * (radius / s), slope)
            return w, linalg.length(w, G)

        w, length = solve(high)
        for _ in range(100):
            s = float(np.sqrt(low * high))
            w, length = solve(s)
            if abs(length - s) <= 1e-12 * s or high <= low * (1 + 1e-14):
                break
            low, high = (s, high) if length > s else (low, s)
        return w
