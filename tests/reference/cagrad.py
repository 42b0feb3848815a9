"""CAGrad (Liu et al. 2021, eq. 2 and its dual): the update that maximises the worst improvement in a ball.

    max_d min_i <g_i, d>   subject to   ||d - g_0|| <= c ||g_0||,   g_0 = mean of the gradients.
    dual: min over the simplex of <g_w, g_0> + c ||g_0|| ||g_w||,   d = g_0 + c ||g_0|| g_w / ||g_w||.

The dual is solved by SLSQP from several starts; `worst_improvement` is the value of the primal.
"""

import numpy as np
from scipy.optimize import minimize


def cagrad(gradients: np.ndarray, c: float, starts: int = 4) -> np.ndarray:
    gradients = np.asarray(gradients, dtype=np.float64)
    scale = np.abs(gradients).max()
    if scale == 0.0:
        return np.zeros(gradients.shape[1])
    gradients = gradients / scale
    count = len(gradients)
    mean = gradients.mean(axis=0)
    radius = c * np.linalg.norm(mean)
    generator = np.random.default_rng(0)

    def dual(weights: np.ndarray) -> float:
        combined = weights @ gradients
        return float(combined @ mean + radius * np.sqrt(combined @ combined + 1e-30))

    best_value, best = np.inf, np.full(count, 1.0 / count)
    for start in [np.full(count, 1.0 / count), *generator.dirichlet(np.ones(count), starts)]:
        found = minimize(
            dual,
            start,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * count,
            constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1.0},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        weights = np.clip(found.x, 0.0, None)
        weights = weights / weights.sum()
        if dual(weights) < best_value:
            best_value, best = dual(weights), weights
    combined = best @ gradients
    length = np.linalg.norm(combined)
    step = np.zeros_like(mean) if length < 1e-12 else radius * combined / length
    return (mean + step) * scale


def worst_improvement(gradients: np.ndarray, update: np.ndarray) -> float:
    return float(min(np.asarray(gradients, dtype=np.float64) @ np.asarray(update, dtype=np.float64)))
