"""UPGrad (Quinton and Rey 2024): every gradient projected onto the cone that hurts no loss, then their mean.

The dual cone of the rows is {d : J d >= 0}. By Moreau the projection of g is g + J^T v with the v >= 0 that
makes it shortest, which is a non-negative least squares problem on the vectors themselves.
"""

import numpy as np
from scipy.optimize import nnls


def upgrad(gradients: np.ndarray) -> np.ndarray:
    gradients = np.asarray(gradients, dtype=np.float64)
    scale = max(np.abs(gradients).max(), 1e-300)
    rows = gradients / scale
    projected = [row + nnls(rows.T, -row)[0] @ rows for row in rows]
    return np.mean(projected, axis=0) * scale
