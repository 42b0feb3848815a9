"""MGDA (Desideri 2012; Sener and Koltun 2018, eq. 3), with the exact minimum-norm point."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.linalg import Weights
from manyloss.plan import Needs
from manyloss.quadratic import minimum_norm_weights, nearest_of_two
from manyloss.weighting._base import GradientWeighting

NORMALIZE = (None, "l2", "loss", "loss+")


class MGDA(GradientWeighting):
    """The point of least norm in the convex hull of the gradients.

    w = argmin ||sum_i w_i g_i||^2 over w >= 0, sum w = 1. The result d fulfils <g_i, d> >= ||d||^2 for
    every loss: a step along -d hurts none. The program is solved exactly on the Gramian, not by a fixed
    number of Frank-Wolfe steps.

    Args:
        normalize: how gradients are scaled before the program is solved (the weights then multiply the
            plain gradients): None, "l2" (by ||g_i||), "loss" (by L_i), "loss+" (by L_i ||g_i||).

    """

    name = "mgda"
    scale = "convex combination"
    search: ClassVar = {"normalize": NORMALIZE}

    def __init__(self, normalize: Literal["l2", "loss", "loss+"] | None = None) -> None:
        super().__init__()
        checks.one_of("normalize", normalize, NORMALIZE)
        self.normalize = normalize
        divides_by_losses = normalize in ("loss", "loss+")
        self.needs = Needs(values=divides_by_losses, gramian=True, replaces=True)
        self.accepts = "above 0" if divides_by_losses else "any"

    def forward(self, gradients: LossGradients) -> Weights:
        """Weights of the minimum-norm point. [T]"""
        G = gradients.gramian  # [T, T]
        if self.normalize is None and len(G) == 2:
            (a, c), (_, b) = gradients.products
            return nearest_of_two(a, b, c)
        if self.normalize is None:
            return minimum_norm_weights(G)
        divisor = np.ones(len(G))
        if self.normalize in ("loss", "loss+"):
            divisor = gradients.values.numpy()
        if self.normalize in ("l2", "loss+"):
            norms = np.sqrt(np.maximum(G.numpy().diagonal(), 0.0))
            divisor = divisor * np.where(norms > 0.0, norms, 1.0)
        return minimum_norm_weights(torch.from_numpy(G.numpy() / divisor[:, None] / divisor))
