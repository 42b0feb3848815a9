"""GradVac (Wang et al. 2020, Algorithm 1) on vectors, for given orders."""

from collections.abc import Iterator, Sequence
from itertools import permutations, product

import numpy as np


def gradvac(
    gradients: np.ndarray, goals: np.ndarray, orders: Sequence[Sequence[int]], beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the changed gradients, and the new moving averages."""
    goals = goals.copy()
    changed = []
    for i, order in enumerate(orders):
        current = gradients[i].copy()
        for j in order:
            other = gradients[j]
            cosine = current @ other / np.linalg.norm(current) / np.linalg.norm(other)
            goal = goals[i, j]
            if cosine < goal:
                numerator = np.linalg.norm(current) * (
                    goal * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - goal**2)
                )
                current = current + numerator / (np.linalg.norm(other) * np.sqrt(1 - goal**2)) * other
            goals[i, j] = (1 - beta) * goal + beta * cosine
        changed.append(current)
    return np.sum(changed, axis=0), goals


def all_orders(count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    return product(*[list(permutations([j for j in range(count) if j != i])) for i in range(count)])
