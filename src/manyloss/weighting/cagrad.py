"""CAGrad (Liu et al. 2021, "Conflict-averse gradient descent", eq. 4 and Algorithm 1)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.quadratic import (
    RIDGE,
    Array,
    Mask,
    cosines_and_lengths,
    minimum_norm_weights,
    nonnegative_quadratic,
    solve_free,
)
from manyloss.weighting._base import GradientWeighting

CLOSE = 1e-6
"""Below this share of the longest gradient, what single-precision gradients cancel to has no direction."""


class CAGrad(GradientWeighting):
    """The step near the MEAN gradient g_0 that helps the worst loss most.

    d = argmax min_i <g_i, d>  with  ||d - g_0|| <= r = c ||g_0||. In the paper's dual, with
    g_w = sum w_i g_i, w = argmin over the simplex of <g_w, g_0> + r ||g_w||, d = g_0 + r g_w / ||g_w||.
    Where the hull of the gradients holds 0 (a zero gradient, exact opposites), that last fraction is 0/0, and
    many d reach the best value, 0, if any does: the nearest to g_0 is taken.
    Scale as published: about that of the mean gradient, 1/T of the sum; use ``rescale`` to compare.

    Args:
        c: radius in units of ||g_0||, 0 or more; 0 gives the mean gradient.

    """

    name = "cagrad"
    scale = "mean"
    search: ClassVar = {"c": (0.2, 0.4, 0.6, 0.8)}

    def __init__(self, c: float = 0.4) -> None:
        super().__init__()
        checks.not_negative("c", c)
        self.c = c

    def forward(self, gradients: LossGradients) -> Tensor:
        """1/T + y_i with d = g_0 + sum y_i g_i. [T]"""
        T = len(gradients.names)
        y = _two(gradients.gramian, self.c) if T == 2 else None
        return torch.from_numpy(1.0 / T + (_step(gradients.gramian, self.c) if y is None else np.array(y)))


def _two(gramian: Tensor, c: float) -> tuple[float, float] | None:
    """The dual for two gradients, w = (x, 1 - x): its slope is zero at the root of a quadratic.

    None where g_w cancels, which is left to :func:`_step`.
    """
    (a, inner), (_, b) = gramian.tolist()
    square = 0.25 * (a + b + 2.0 * inner)  # ||g_0||^2
    if square <= 0.0 or c == 0.0:
        return 0.0, 0.0
    radius = c * math.sqrt(square)
    A, B = a + b - 2.0 * inner, inner - b  # ||g_w||^2 = A x^2 + 2 B x + b
    slope = 0.5 * (a - b)  # d<g_w, g_0> / dx
    rest = radius * radius * A - slope * slope
    if rest > 0.0:
        determinant = max(a * b - inner * inner, 0.0)
        x = -(B + math.copysign(math.sqrt(slope * slope * determinant / rest), slope)) / A
        x = min(max(x, 0.0), 1.0)
    else:
        x = 0.0 if slope > 0.0 else 1.0 if slope < 0.0 else 0.5
    length = math.sqrt(max((A * x + 2.0 * B) * x + b, 0.0))
    if length <= CLOSE * math.sqrt(max(a, b)):
        return None
    return x * (radius / length), (1.0 - x) * (radius / length)


def _step(gramian: Tensor, c: float) -> Array:
    """The smallest y >= 0 whose d reaches the best value within the radius. [T]

    A value z is reached by the smallest step x with <g_i, g_0 + x> >= z for all i, a nonnegative program in
    y. Its length D(z) grows with z, and D^2 is piecewise quadratic: the program at one z says on which piece
    it lies, and where D = r on that piece. If the hull holds 0, no z above 0 can be reached.
    """
    C, lengths = cosines_and_lengths(gramian.numpy())
    T = len(C)
    y = np.zeros(T)
    alive = lengths > 0.0
    if not alive.any() or c == 0.0:
        return y
    C, lengths, longest = C[np.ix_(alive, alive)], lengths[alive], lengths.max()
    with_mean = C @ lengths / T  # <g_i, g_0> / ||g_i||
    radius = c * math.sqrt(max(float(lengths @ with_mean) / T, 0.0))
    b = longest / lengths  # z is measured in units of the longest length
    hull_holds_zero = not alive.all() or _shortest_point(gramian) <= CLOSE * longest
    low = float((with_mean / b).min())  # the value of d = g_0
    high = float((with_mean / b + radius / b).min())  # no step of length r helps a single loss more
    z = high = min(high, 0.0) if hull_holds_zero else high
    if high <= low:
        return y
    for _ in range(100):
        u = nonnegative_quadratic(C, with_mean - z * b)
        free = u > 0.0
        D = math.sqrt(max(float(u @ C @ u), 0.0))
        if (z == high and radius >= D) or abs(D - radius) <= 1e-12 * radius:
            break
        low, high = (z, high) if radius > D else (low, z)
        z = _where_long(C, b, with_mean, free, radius)
        if not (z > low and z < high):
            z = 0.5 * (low + high)
        if high - low <= 1e-15 * max(abs(high), abs(low)):
            break
    y[alive] = u / lengths
    return y


def _shortest_point(gramian: Tensor) -> float:
    w = minimum_norm_weights(gramian)
    return math.sqrt(max(float(w @ gramian @ w), 0.0))


def _where_long(C: Array, b: Array, with_mean: Array, free: Mask, radius: float) -> float:
    """The z at which the step on this piece is as long as the radius; nan if it never is."""
    matrix = C + RIDGE * np.eye(len(C))
    along, _ = solve_free(matrix, -b, free)  # u = z along + start
    start, _ = solve_free(matrix, with_mean, free)
    A, B, E = float(along @ b), float(start @ b), float(-(start @ with_mean))
    root = B * B - A * (E - radius * radius)
    return (-B + math.sqrt(root)) / A if A > 0.0 and root >= 0.0 else math.nan
