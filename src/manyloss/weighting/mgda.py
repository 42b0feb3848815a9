"""MGDA (Desideri 2012; Sener and Koltun 2018, eq. 3), with the exact minimum-norm point."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from manyloss import checks, linalg
from manyloss.gradients import LossGradients
from manyloss.weighting._base import GradientWeighting

NORMALIZE = (None, "l2", "loss", "loss+")


class MGDA(GradientWeighting):
    """w = argmin ||sum_i w_i g_i||^2 over w >= 0, sum w = 1.

    The result d fulfils <g_i, d> >= ||d||^2 for every loss: a step along -d hurts none. The program is
    solved exactly on the Gramian, not by a fixed number of Frank-Wolfe steps.

    Args:
        normalize: how gradients are scaled before the program is solved (the weights then multiply the
            plain gradients): None, "l2" (by ||g_i||), "loss" (by L_i), "loss+" (by L_i ||g_i||).

    """

    def __init__(self, normalize: Literal["l2", "loss", "loss+"] | None = None) -> None:
        super().__init__()
        checks.one_of("normalize", normalize, NORMALIZE)
        self.normalize = normalize

    def forward(self, gradients: LossGradients) -> Tensor:
        """Weights of the minimum-norm point. [T]"""
        G = gradients.gramian  # [T, T]
        divisor = torch.ones_like(gradients.values)
        if self.normalize in ("loss", "loss+"):
            for name, value in zip(gradients.names, gradients.values.tolist(), strict=True):
                checks.positive_loss("MGDA", name, value, "the value")
            divisor = divisor * gradients.values
        if self.normalize in ("l2", "loss+"):
            norms = gradients.norms
            divisor = divisor * torch.where(norms > 0, norms, torch.ones_like(norms))
        scaled = G / divisor[:, None] / divisor[None, :]
        return torch.from_numpy(linalg.minimum_norm_weights(scaled.numpy()))
