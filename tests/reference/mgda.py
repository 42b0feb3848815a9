"""MGDA: the minimum-norm point of the convex hull of the gradients, by trying every face.

The point lies inside exactly one face (a set S of gradients with positive weight). There the weights solve
min || sum_{i in S} w_i g_i ||^2 with sum w = 1, a linear system. So: solve it for all 2^T - 1 sets, drop
the ones with a negative weight, keep the shortest.
"""

from itertools import combinations

import numpy as np


def minimum_norm_weights(gradients: np.ndarray) -> np.ndarray:
    gradients = np.asarray(gradients, dtype=np.float64)
    count = len(gradients)
    scale = np.abs(gradients).max()
    if scale == 0.0:
        return np.full(count, 1.0 / count)
    gradients = gradients / scale
    best_norm, best = np.inf, np.full(count, 1.0 / count)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            weights = _weights_on_face(gradients[list(chosen)])
            if weights.min() < -1e-12:
                continue
            norm = np.linalg.norm(weights @ gradients[list(chosen)])
            if norm < best_norm - 1e-14:
                best_norm = norm
                best = np.zeros(count)
                best[list(chosen)] = weights
    return best


def _weights_on_face(rows: np.ndarray) -> np.ndarray:
    """Closest point to 0 of the affine hull: g_1 + sum_j t_j (g_j - g_1) with t by least squares."""
    if len(rows) == 1:
        return np.ones(1)
    directions = (rows[1:] - rows[0]).T
    steps = np.linalg.lstsq(directions, -rows[0], rcond=None)[0]
    return np.concatenate([[1.0 - steps.sum()], steps])


def minimum_norm_point(gradients: np.ndarray) -> np.ndarray:
    return minimum_norm_weights(gradients) @ np.asarray(gradients, dtype=np.float64)


def normalized(gradients: np.ndarray, losses: np.ndarray, normalize: str | None) -> np.ndarray:
    """Sener and Koltun: the weights are computed from these rows, and multiply the raw gradients."""
    rows = []
    for gradient, loss in zip(gradients, losses, strict=True):
        norm = np.sqrt((gradient**2).sum())
        divisor = {None: 1.0, "l2": norm, "loss": loss, "loss+": loss * norm}[normalize]
        rows.append(gradient / divisor)
    return np.stack(rows)


def optimality_gap(gradients: np.ndarray, point: np.ndarray) -> float:
    """||d||^2 - min_i <g_i, d>, relative to max ||g||^2: at most 1e-6 at the minimum-norm point."""
    gradients = np.asarray(gradients, dtype=np.float64)
    scale = max(np.abs(gradients).max(), np.finfo(np.float64).tiny)
    gradients, point = gradients / scale, np.asarray(point, dtype=np.float64) / scale
    longest = max((row @ row for row in gradients), default=0.0)
    if longest == 0.0:
        return 0.0
    return float((point @ point - min(row @ point for row in gradients)) / longest)
