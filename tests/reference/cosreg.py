"""CosReg (cosine regularisation 2020, eq. 4-5), pair by pair, differentiable torch float64."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """0 when one of the two is the zero vector: a zero row counts as orthogonal."""
    if not bool(first.detach().any()) or not bool(second.detach().any()):
        return first.sum() * 0.0 + second.sum() * 0.0
    return (first * second).sum() / (first.square().sum().sqrt() * second.square().sum().sqrt())


def cosreg(rows: Sequence[Tensor], alpha: float) -> Tensor:
    """alpha / (T (T - 1)) times the sum over ordered pairs of cos^2: the diagonal of D D^T - I is zero."""
    count = len(rows)
    total = torch.zeros((), dtype=torch.float64)
    if count < 2:
        return total
    for i in range(count):
        for j in range(count):
            if i != j:
                total = total + cosine(rows[i], rows[j]) ** 2
    return alpha / (count * (count - 1)) * total
