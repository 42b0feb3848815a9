"""Aligned-MTL (Senushkin et al. 2023): all singular values of the gradient matrix become one length."""

import numpy as np


def aligned_mtl(gradients: np.ndarray, scale_mode: str) -> np.ndarray:
    gradients = np.asarray(gradients, dtype=np.float64)
    left, singular, right = np.linalg.svd(gradients, full_matrices=False)
    alive = singular > 1e-6 * singular.max()
    left, singular, right = left[:, alive], singular[alive], right[alive]
    squares = np.sort(singular**2)
    square = {"min": squares[0], "median": squares[(len(squares) - 1) // 2], "rmse": squares.mean()}[
        scale_mode
    ]
    return (np.sqrt(square) * left @ right).mean(axis=0)
