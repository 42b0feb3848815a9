"""FairGrad (Ban and Ji 2024) and Nash-MTL (Navon et al. 2022), as a search over the step itself.

d maximises sum_i u(<g_i, d>) - ||d||^2 / 2 with u(x) = x^(1 - alpha) / (1 - alpha), log x for alpha = 1: its
first-order condition is d = sum_i u'(<g_i, d>) g_i, the papers' equation for w_i = u'(<g_i, d>) = x_i^-alpha.
"""

import numpy as np
from scipy.optimize import minimize


def fair_step(gradients: np.ndarray, alpha: float) -> np.ndarray:
    """The step d for rows of which some combination helps every loss."""
    rows = np.asarray(gradients, dtype=np.float64)
    basis = np.linalg.svd(rows, full_matrices=False)[2]
    rows = rows @ basis.T  # within the span
    start = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]  # <g_i, start> = 1

    def objective(d: np.ndarray) -> float:
        gains = rows @ d
        if gains.min() <= 0.0:
            return np.inf
        utility = np.log(gains) if alpha == 1.0 else gains ** (1.0 - alpha) / (1.0 - alpha)
        return float(0.5 * d @ d - utility.sum())

    def slope(d: np.ndarray) -> np.ndarray:
        gains = np.maximum(rows @ d, 1e-12)
        return d - gains**-alpha @ rows

    def curvature(d: np.ndarray) -> np.ndarray:
        gains = np.maximum(rows @ d, 1e-12)
        return np.eye(len(d)) + rows.T @ (alpha * gains[:, None] ** (-alpha - 1.0) * rows)

    found = start
    for _ in range(200):
        step = -np.linalg.solve(curvature(found), slope(found))
        reach = 1.0
        while objective(found + reach * step) > objective(found) and reach > 1e-9:
            reach /= 2
        found = found + reach * step
    polished = minimize(objective, found, jac=slope, method="L-BFGS-B", options={"ftol": 1e-16}).x
    best = min((found, polished), key=objective)
    return best @ basis
