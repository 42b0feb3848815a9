"""PCGrad (Yu et al. 2020, Algorithm 1) and its iterative variant (GradDrop, appendix A.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from manyloss.gradients import LossGradients
from manyloss.weighting._base import GradientWeighting


class PCGrad(GradientWeighting):
    """Each gradient is projected off the ORIGINAL other gradients that it conflicts with, in random order.

    g_i <- g_i - <g_i, g_j> / ||g_j||^2 g_j for every j != i with <g_i, g_j> < 0, and the g_i are summed.
    All of it happens in the span of the gradients, so it is done on the Gramian; w_j >= 1 is g_j's total.

    Args:
        seed: of the own generator; drawn from torch's when None.

    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed_with(seed)

    def forward(self, gradients: LossGradients) -> Tensor:
        """Column sums of the projected gradients' coordinates. [T]"""
        G = gradients.gramian  # [T, T]
        T = len(G)
        orders = torch.stack([torch.randperm(T, generator=self.generator) for _ in range(T)])  # [T, T]
        everyone = torch.arange(T)
        squares = G.diagonal()
        C = torch.eye(T, dtype=G.dtype)  # row i: g_i in terms of the original gradients
        inner = G.clone()  # <g_i, original g_j>
        for k in range(T):
            j = orders[:, k]  # [T], the k-th partner of every i
            product = inner[everyone, j]
            conflict = (product < 0) & (j != everyone) & (squares[j] > 0)
            share = torch.where(conflict, product / squares[j], torch.zeros_like(product))  # [T]
            C[everyone, j] -= share
            inner -= share[:, None] * G[j]
        return C.sum(0)


class IterativePCGrad(GradientWeighting):
    """PCGrad that projects in place, so that later projections see the changed gradients.

    It is not trivial in one dimension, where PCGrad leaves nothing of any conflict. Outer and inner order
    are random.

    Args:
        seed: of the own generator; drawn from torch's when None.

    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed_with(seed)

    def forward(self, gradients: LossGradients) -> Tensor:
        """Column sums of the projected gradients' coordinates. [T]"""
        H = gradients.gramian.numpy().copy()  # [T, T], of the gradients as they change
        T = len(H)
        C = torch.eye(T, dtype=torch.float64).numpy()
        nothing = 1e-14 * H.diagonal()  # what rounding leaves of a square
        outer = torch.randperm(T, generator=self.generator).tolist()
        inner = [torch.randperm(T, generator=self.generator).tolist() for _ in range(T)]
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
