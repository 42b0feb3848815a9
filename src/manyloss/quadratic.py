"""Small quadratic programs over weights that are 0 or more: exact, in float64, from the Gramian.

Axis letters: T losses. Rows may differ in length by as much as float64 can tell: every program is written in
u_i = w_i ||g_i||, which leaves a matrix of cosines.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyloss.linalg import vector

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RIDGE = 1e-13
"""Added to the cosines' diagonal: it makes rank-deficient programs unique, and treats repeated rows alike."""

ROUNDING = 1e-11
"""What is smaller, beside the numbers it was computed from, has no sign."""


def nonnegative_quadratic(matrix: Array, slope: Array) -> Array:
    """Find argmin u^T C u / 2 + s^T u  subject to  u >= 0, by block principal pivoting.

    Each round solves for the free entries and exchanges every entry that breaks a sign. That takes a few
    rounds, but may cycle in degenerate problems; then the active set below, which cannot, starts over.

    Args:
        matrix: C [T, T], symmetric positive semidefinite, with a diagonal near 1.
        slope: s [T].

    Returns:
        u [T].

    """
    matrix = matrix + RIDGE * np.eye(len(matrix))
    free = slope < 0.0
    fewest, patience = len(matrix) + 1, 3
    while patience:
        u, dual = solve_free(matrix, slope, free)
        small = ROUNDING * np.abs(u).max()
        wrong = np.where(free, u < -small, dual < -small - ROUNDING * np.abs(slope))
        count = int(wrong.sum())
        if count == 0:
            return np.maximum(u, 0.0)
        fewest, patience = (count, 3) if count < fewest else (fewest, patience - 1)
        free = free ^ wrong
    return _active_set(matrix, slope)


def _active_set(matrix: Array, slope: Array) -> Array:
    """The same, one entry at a time from none on (Lawson and Hanson 1974); the objective always falls."""
    T = len(matrix)
    free = np.zeros(T, dtype=bool)
    u = np.zeros(T)
    for _ in range(10 * T):
        target, dual = solve_free(matrix, slope, free)
        while (target < 0.0).any():
            falling = free & (target < 0.0)
            reach = u[falling] / (u[falling] - target[falling])
            u = u + reach.min() * (target - u)
            free[np.flatnonzero(falling)[reach <= reach.min()]] = False
            u[~free] = 0.0
            target, dual = solve_free(matrix, slope, free)
        u = target
        dual = np.where(free, np.inf, dual + ROUNDING * (u.max() + np.abs(slope)))
        if dual.min() >= 0.0:
            break
        free[int(np.argmin(dual))] = True
    return u


def solve_free(matrix: Array, slope: Array, free: Mask) -> tuple[Array, Array]:
    """The minimiser over the free entries, the others 0, and the slope there. [T], [T]"""
    index = np.flatnonzero(free)
    u = np.zeros(len(matrix))
    if len(index):
        u[index] = np.linalg.solve(matrix[np.ix_(index, index)], -slope[index])
    return u, matrix @ u + slope


def cosines_and_lengths(gramian: Array) -> tuple[Array, Array]:
    """The Gramian of the rows at unit length, and their lengths; a zero row stays zero. [T, T], [T]"""
    lengths = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    safe = np.where(lengths > 0.0, lengths, 1.0)
    return gramian / safe[:, None] / safe[None, :], lengths


def minimum_norm_weights(gramian: Tensor) -> Tensor:
    """Weights of the point of least norm in the convex hull of T vectors.

    w = argmin_w w^T G w  subject to  w >= 0, sum w = 1  (MGDA, Sener and Koltun 2018, eq. 3)

    Without the sum (Wolfe 1976): v = argmin v^T G v + (sum v - 1)^2 / s^2 over v >= 0 is a multiple of w,
    whatever s; the shortest length is taken.

    Args:
        gramian: G [T, T], symmetric and positive semidefinite, float64, CPU.

    Returns:
        w [T], float64; d = sum w_i g_i fulfils <g_i, d> >= ||d||^2 for every i up to rounding. A zero vector
        takes all the weight (shared, if there are several).

    """
    if len(gramian) == 2:
        (a, c), (_, b) = gramian.tolist()
        return vector(nearest_of_two(a, b, c))
    C, lengths = cosines_and_lengths(gramian.numpy())
    shortest = lengths.min()
    if shortest == 0.0:
        return torch.from_numpy((lengths == 0.0) / (lengths == 0.0).sum())
    b = shortest / lengths
    w = nonnegative_quadratic(C + np.outer(b, b), -b) * b
    return torch.from_numpy(w / w.sum())


def nearest_of_two(a: float, b: float, c: float) -> tuple[float, float]:
    """The point of least norm between two vectors with squares a and b and inner product c."""
    if c < min(a, b):  # inside: a - c and b - c are both above 0
        return (b - c) / (a - c + (b - c)), (a - c) / (a - c + (b - c))
    return (1.0, 0.0) if a < b else (0.0, 1.0) if b < a else (0.5, 0.5)
