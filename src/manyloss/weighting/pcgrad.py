"""PCGrad (Yu et al. 2020, Algorithm 1) and its iterative variant (GradDrop, appendix A.3)."""

from __future__ import annotations

import numpy as np
import torch

from manyloss.gradients import LossGradients
from manyloss.linalg import Weights
from manyloss.weighting._base import GradientWeighting


def _two(gradients: LossGradients, only: int | None = None) -> list[float]:
    """Both gradients projected off each other, where order means nothing; or ``only`` one of them."""
    (a, c), (_, b) = gradients.products
    w = [1.0, 1.0]
    if c < 0.0:
        if only != 0:  # the second gradient loses <g_1, g_2> / ||g_1||^2 g_1
            w[0] -= c / a
        if only != 1:
            w[1] -= c / b
        # In one dimension nothing but rounding is left of the projected one, and of its direction.
        if only is not None and a - c * (c / b) <= 1e-14 * a:
            w[only], w[1 - only] = 0.0, 1.0
    return w


class PCGrad(GradientWeighting):
    """Each gradient is projected off the ORIGINAL other gradients that it conflicts with, in random order.

    g_i <- g_i - <g_i, g_j> / ||g_j||^2 g_j for every j != i with <g_i, g_j> < 0, and the g_i are summed.
    All of it happens in the span of the gradients, so it is done on the Gramian; w_j >= 1 is g_j's total.

    Args:
        seed: of the own generator; drawn from torch's when None.

    """

    name = "pcgrad"
    numbers = "projection coefficients"

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed_with(seed)

    def forward(self, gradients: LossGradients) -> Weights:
        """Column sums of the projected gradients' coordinates. [T]"""
        T = len(gradients.names)
        if T == 2:
            return _two(gradients)
        G = gradients.gramian.numpy()  # [T, T]
        draws = torch.rand(T, T, generator=self.generator, dtype=torch.float64, device="cpu")
        orders = draws.argsort(dim=1).numpy()  # [T, T], a random order of partners per row
        everyone = np.arange(T)
        squares = G.diagonal()
        inverse = np.divide(1.0, squares, out=np.zeros(T), where=squares > 0)
        total = np.ones(T)  # column sums of the projected gradients' coordinates
        inner = G.copy()  # <g_i, original g_j>
        for k in range(T):
            j = orders[:, k]  # [T], the k-th partner of every i
            share = np.minimum(inner[everyone, j], 0.0) * inverse[j]  # [T]
            share[j == everyone] = 0.0
            i = np.flatnonzero(share)
            np.subtract.at(total, j[i], share[i])
            inner[i] -= share[i, None] * G[j[i]]
        return torch.from_numpy(total)


class IterativePCGrad(GradientWeighting):
    """PCGrad that projects in place, so that later projections see the changed gradients.

    It is not trivial in one dimension, where PCGrad leaves nothing of any conflict. Outer and inner order
    are random.

    Args:
        seed: of the own generator; drawn from torch's when None.

    """

    name = "iterative-pcgrad"
    numbers = "projection coefficients"

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed_with(seed)

    def forward(self, gradients: LossGradients) -> Weights:
        """Column sums of the projected gradients' coordinates. [T]"""
        if len(gradients.names) == 2:
            first = bool(torch.rand((), generator=self.generator, device="cpu") < 0.5)
            return _two(gradients, 0 if first else 1)
        H = gradients.gramian.numpy().copy()  # [T, T], of the gradients as they change
        T = len(H)
        C = np.eye(T)
        nothing = 1e-14 * H.diagonal()  # what rounding leaves of a square
        outer = torch.randperm(T, generator=self.generator, device="cpu").tolist()
        inner = [torch.randperm(T, generator=self.generator, device="cpu").tolist() for _ in range(T)]
        for i in outer:
            for j in inner[i]:
                if j != i and H[i, j] < 0 and H[j, j] > 0:
                    share = H[i, j] / H[j, j]
                    C[i] -= share * C[j]
                    row = H[i] - share * H[j]
                    row[i] -= share * (H[j, i] - share * H[j, j])
                    row[j] = 0.0  # exactly, or rounding would start another projection
                    if row[i] <= nothing[i]:  # as in one dimension: no direction is left to project on
                        C[i], row = 0.0, 0.0 * row
                    H[i], H[:, i] = row, row
        return torch.from_numpy(C.sum(0))
