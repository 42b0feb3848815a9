"""CAGrad (Liu et al. 2021, "Conflict-averse gradient descent", eq. 4 and Algorithm 1)."""

from __future__ import annotations

import math
from typing import ClassVar

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

    name = "cagrad"
    search: ClassVar = {"c": (0.2, 0.4, 0.6, 0.8)}

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
        w = self._two(G, radius) if T == 2 else self._dual(G, G @ mean, radius)
        length = linalg.length(w, G)
        return torch.from_numpy(mean + (radius / length) * w if length > 1e-10 else mean)

    @staticmethod
    def _two(G: linalg.Array, radius: float) -> linalg.Array:
        """The dual for two gradients: along w = (x, 1 - x) its slope is zero at the root of a quadratic."""
        (a, c), (_, b) = G.tolist()
        A, B, D = a + b - 2 * c, c - b, max(a * b - c * c, 0.0)  # ||g_w||^2 = A x^2 + 2 B x + b
        slope = 0.5 * (a - b)  # of <g_w, g_0>
        rest = radius * radius * A - slope * slope
        if rest > 0.0:
            x = -(B + math.copysign(math.sqrt(slope * slope * D / rest), slope)) / A
        else:
            x = 0.0 if slope > 0.0 else 1.0
        x = min(max(x, 0.0), 1.0)
        return np.array([x, 1.0 - x])

    @staticmethod
    def _dual(G: linalg.Array, slope: linalg.Array, radius: float) -> linalg.Array:
        """Argmin <w, slope> + radius sqrt(w^T G w), by sqrt(x) = min_s (x / s + s) / 2.

        For a fixed s the minimiser w(s) solves a quadratic program; ||g_w(s)|| - s changes sign once, at the
        solution, which is found by the Illinois method on log s.
        """

        def excess(log_s: float) -> tuple[linalg.Array, float]:
            w = linalg.simplex_quadratic(G * (radius / math.exp(log_s)), slope)
            return w, math.log(max(linalg.length(w, G), 1e-300)) - log_s

        high, low = 0.0, math.log(1e-12)  # lengths are in units of the longest gradient
        w, above = excess(high)
        if above == 0.0:
            return w
        w, below = excess(low)
        if below <= 0.0:  # the hull holds 0, up to rounding
            return w
        side = 0
        for _ in range(60):
            middle = (low * above - high * below) / (above - below)
            w, value = excess(middle)
            if abs(value) <= 1e-10 or high - low <= 1e-13:
                break
            if value > 0.0:
                low, below = middle, value
                above = above / 2 if side == 1 else above
                side = 1
            else:
                high, above = middle, value
                below = below / 2 if side == -1 else below
                side = -1
        return w
