"""Gramian, cosines, and quadratic programs on the simplex: small, exact, in float64 on the CPU.

Axis letters: T losses. Squares are formed in float64, where gradients from 1e-150 to 1e150 neither vanish
nor overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_CHUNK = 1 << 18  # numbers of one row that are held in float64 at a time


def row_scales(rows: Sequence[Tensor]) -> Tensor:
    """Largest |entry| of each of T rows over all tensors [T, ...]; inf or nan where a row holds one. [T]"""
    scales = [tensor.detach().flatten(1).abs().amax(1) for tensor in rows if tensor[0].numel()]
    if not scales:
        return torch.zeros(rows[0].shape[0])
    return torch.stack(scales).amax(0)


def gramian(rows: Sequence[Tensor]) -> Tensor:
    """Inner products <g_i, g_j>, summed in float64 over all the tensors.

    Args:
        rows: tensors [T, ...], one per place.

    Returns:
        [T, T], float64, on the CPU.

    """
    total: Tensor | None = None
    for tensor in rows:
        flat = tensor.detach().flatten(1)
        if wide(flat.device) != torch.float64:
            flat = flat.cpu()
        for start in range(0, max(flat.shape[1], 1), _CHUNK):
            part = flat[:, start : start + _CHUNK].double()
            product = part @ part.T
            total = product if total is None else total.add_(product.to(total.device))
    assert total is not None
    return total.cpu()


def row_norms(rows: Sequence[Tensor]) -> Tensor:
    """||g_i||_2 over all the tensors [T, ...], in float64, without the other inner products. [T], CPU."""
    norms = [
        torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1, dtype=wide(tensor.device)).cpu().double()
        for tensor in rows
    ]
    if len(norms) == 1:
        only: Tensor = norms[0]
        return only
    joined: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return joined


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """sum_i w_i g_i of rows [T, ...]; in float64 where the rows' own type cannot hold a weight. [...]"""
    if rows.dtype == torch.float64 or all(w == 0.0 or 1e-30 < abs(w) < 1e30 for w in weights.tolist()):
        held = weights.to(rows.device, rows.dtype)
        summed: Tensor = held @ rows.flatten(1)
        return summed.view(rows.shape[1:])
    total: Tensor = weights @ rows.detach().cpu().double().flatten(1)
    return total.view(rows.shape[1:]).to(rows.device, rows.dtype)


def wide(device: torch.device) -> torch.dtype:
    """float64 where the device has it, else float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def cosines(gramian: Tensor) -> Tensor:
    """Pairwise cosines of a Gramian [T, T]; 0 where a row is zero, 1 on the diagonal of the others."""
    norms = gramian.diagonal().sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return (gramian / safe[:, None] / safe[None, :]).clamp(-1.0, 1.0)


def length(weights: Array, gramian: Array) -> float:
    """||sum_i w_i g_i|| from the Gramian."""
    return math.sqrt(max(float(weights @ gramian @ weights), 0.0))


def minimum_norm_weights(gramian: Tensor) -> Tensor:
    """Weights of the point of least norm in the convex hull of T vectors.

    w = argmin_w w^T G w  subject to  w >= 0, sum w = 1  (MGDA, Sener and Koltun 2018, eq. 3)

    Args:
        gramian: G [T, T], symmetric and positive semidefinite, float64, CPU.

    Returns:
        w [T]; d = sum w_i g_i fulfils <g_i, d> >= ||d||^2 for every i up to rounding. A zero vector takes
        all the weight (shared, if there are several).

    """
    if len(gramian) == 2:
        (a, c), (_, b) = gramian.tolist()
        return torch.tensor(_nearest_of_two(a, b, c), dtype=torch.float64, device="cpu")
    G: Array = gramian.numpy()
    return torch.from_numpy(simplex_quadratic(G, np.zeros(len(G))))


def _nearest_of_two(a: float, b: float, c: float) -> tuple[float, float]:
    """The point of least norm between two vectors with squares a and b and inner product c."""
    if c < min(a, b):  # inside: a - c and b - c are both above 0
        return (b - c) / (a - c + (b - c)), (a - c) / (a - c + (b - c))
    return (1.0, 0.0) if a < b else (0.0, 1.0) if b < a else (0.5, 0.5)


def simplex_quadratic(quadratic: Array, linear: Array) -> Array:
    """Argmin over the simplex of w^T Q w / 2 + q^T w, by block principal pivoting.

    The unknowns are u = D w with D^2 = diag(Q), so that vectors of very different length do not spoil the
    linear systems (D is at least 1e-8 of its largest entry, below which a vector is rounding beside the
    longest); a ridge of 1e-13 on the scaled matrix makes rank-deficient problems unique.

    Args:
        quadratic: Q [T, T], symmetric positive semidefinite.
        linear: q [T].

    Returns:
        w [T], w >= 0, sum w = 1.

    """
    T = len(quadratic)
    lengths = np.sqrt(np.maximum(quadratic.diagonal(), 0.0))
    if T == 1:
        return np.ones(1)
    longest = lengths.max()
    if longest == 0.0 and not linear.any():
        return np.full(T, 1.0 / T)
    still = lengths <= 1e-150
    if still.any() and not linear.any():
        return np.asarray(still / still.sum())
    lengths = np.maximum(lengths, 1e-8 * longest) if longest > 0.0 else np.ones(T)
    correlation = quadratic / lengths[:, None] / lengths[None, :] + 1e-13 * np.eye(T)
    shortest = lengths.min()
    constraint = shortest / lengths  # sum_i u_i / lengths_i = 1, in units of the shortest vector
    slope = linear / lengths / shortest
    u = _pivot(correlation, slope, constraint)
    w = np.maximum(u * constraint, 0.0)
    return np.asarray(w / w.sum())


def _pivot(matrix: Array, slope: Array, constraint: Array) -> Array:
    """Find argmin u^T C u / 2 + s^T u  with  b^T u = 1, u >= 0.

    Each round solves the equality-constrained problem on the free entries and exchanges every entry that
    breaks a sign. That takes a few rounds, but may cycle in degenerate problems; then the active set below,
    which cannot, starts over.
    """
    free = np.ones(len(matrix), dtype=bool)
    fewest, patience = len(matrix) + 1, 3
    while patience and free.any():
        u, dual = _solve_free(matrix, slope, constraint, free)
        tolerance = 1e-11 * max(1.0, float(np.abs(u).max()))
        wrong = np.where(free, u < -tolerance, dual < -tolerance)
        count = int(wrong.sum())
        if count == 0:
            return u
        fewest, patience = (count, 3) if count < fewest else (fewest, patience - 1)
        free = free ^ wrong
    return _active_set(matrix, slope, constraint)


def _active_set(matrix: Array, slope: Array, constraint: Array) -> Array:
    """The same, one entry at a time from the best single entry on; the objective falls in every round."""
    T = len(matrix)
    start = int(np.argmin(0.5 * matrix.diagonal() / constraint**2 + slope / constraint))
    free = np.zeros(T, dtype=bool)
    free[start] = True
    u = np.zeros(T)
    u[start] = 1.0 / constraint[start]
    for _ in range(10 * T):
        target, dual = _solve_free(matrix, slope, constraint, free)
        while (target < 0.0).any():
            falling = free & (target < 0.0)
            reach = u[falling] / (u[falling] - target[falling])
            u = u + reach.min() * (target - u)
            free[np.flatnonzero(falling)[reach <= reach.min()]] = False
            u[~free] = 0.0
            target, dual = _solve_free(matrix, slope, constraint, free)
        u = target
        dual[free] = np.inf
        if dual.min() >= -1e-10 * max(1.0, float(u.max())):
            break
        free[int(np.argmin(dual))] = True
    return u


def _solve_free(matrix: Array, slope: Array, constraint: Array, free: NDArray[Any]) -> tuple[Array, Array]:
    index = np.flatnonzero(free)
    sides = np.stack([constraint[index], slope[index]], axis=1)
    solved = np.linalg.solve(matrix[np.ix_(index, index)], sides)
    along, against = solved[:, 0], solved[:, 1]
    price = (1.0 + constraint[index] @ against) / (constraint[index] @ along)
    u = np.zeros(len(matrix))
    u[index] = price * along - against
    dual = matrix @ u + slope - price * constraint
    return u, dual
