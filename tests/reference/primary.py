"""A-GEM's projection (Chaudhry et al. 2019, eq. 11) of every gradient but one, on the vectors themselves."""

import numpy as np


def primary(gradients: np.ndarray, p: int) -> np.ndarray:
    """The sum of g_p and of the others, each projected if it conflicts with g_p."""
    reference = gradients[p]
    total = reference.copy()
    for i, gradient in enumerate(gradients):
        if i == p:
            continue
        inner = gradient @ reference
        if inner < 0 and reference @ reference > 0:
            total = total + gradient - inner / (reference @ reference) * reference
        else:
            total = total + gradient
    return total
