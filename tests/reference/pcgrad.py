"""PCGrad (Yu et al. 2020, Algorithm 1) and GradDrop's Iterative PCGrad (appendix A.3), for given orders.

The orders are drawn at random by the methods; `all_*` lists the result for every order there is. All is done
in fractions: whether a projected gradient is zero must not depend on rounding.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations, product

import numpy as np


def exact(gradients: np.ndarray) -> np.ndarray:
    """The same numbers as fractions."""
    return np.array([[Fraction(float(number)) for number in row] for row in gradients], dtype=object)


def merged(rows: list[np.ndarray]) -> np.ndarray:
    """The sum of the rows, back in float64."""
    return np.array([float(sum(column)) for column in zip(*rows, strict=True)])


def pcgrad(gradients: np.ndarray, inner: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """inner[i]: in which order row i meets the others. Projects on the ORIGINAL other gradients."""
    projected = []
    for i in range(len(gradients)):
        current = gradients[i].copy()
        for j in inner[i]:
            assert j != i
            other = gradients[j]
            squared = other @ other
            if squared == 0:
                continue
            conflict = current @ other
            if conflict < 0:
                current = current - conflict / squared * other
        projected.append(current)
    return projected


def iterative_pcgrad(
    gradients: np.ndarray, outer: Sequence[int], inner: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Like PCGrad without the static copy: a row meets the others as they are by now."""
    current = [row.copy() for row in gradients]
    for i in outer:
        for j in inner[i]:
            assert j != i
            squared = current[j] @ current[j]
            if squared == 0:
                continue
            conflict = current[i] @ current[j]
            if conflict < 0:
                current[i] = current[i] - conflict / squared * current[j]
    return current


def _inner_orders(count: int) -> list[list[tuple[int, ...]]]:
    per_row = [list(permutations([j for j in range(count) if j != i])) for i in range(count)]
    return [list(orders) for orders in product(*per_row)]


def all_pcgrad(gradients: np.ndarray) -> list[np.ndarray]:
    """The merged gradient (the sum of the projected rows) for every choice of inner orders."""
    gradients = exact(gradients)
    return [merged(pcgrad(gradients, inner)) for inner in _inner_orders(len(gradients))]


def all_iterative_pcgrad(gradients: np.ndarray) -> list[np.ndarray]:
    """The merged gradient for every choice of outer and inner orders."""
    gradients = exact(gradients)
    count = len(gradients)
    return [
        merged(iterative_pcgrad(gradients, outer, inner))
        for outer in permutations(range(count))
        for inner in _inner_orders(count)
    ]
