"""Aligned-MTL (Senushkin et al. 2023, "Independent component alignment for MTL", Algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.weighting._base import GradientWeighting

SCALES = ("min", "median", "rmse")

ROUNDING = 1e-12
"""Eigenvalues below this share of the largest are rounding of single-precision gradients."""


class AlignedMTL(GradientWeighting):
    """The mean of the gradients, after their principal components were made equally long.

    With the Gramian G = V L V^T of rank R, B = sqrt(l) V L^-1/2 V^T and w = B 1/T: the gradients become
    orthogonal, of one length (condition number 1), as near to the old ones as can be.
    Scale as published: l is the smallest eigenvalue, so the step is as long as the weakest component, and
    weights are those of a mean; use ``rescale`` to compare.

    Args:
        scale_mode: what l is: "min", "median" or "rmse" (the mean) of the eigenvalues above 0.

    """

    name = "aligned-mtl"
    scale = "mean"
    search: ClassVar = {"scale_mode": SCALES}

    def __init__(self, scale_mode: Literal["min", "median", "rmse"] = "min") -> None:
        super().__init__()
        checks.one_of("scale_mode", scale_mode, SCALES)
        self.scale_mode = scale_mode

    def forward(self, gradients: LossGradients) -> Tensor:
        """B 1/T. [T]"""
        G = gradients.gramian.numpy()
        T = len(G)
        largest = G.diagonal().max()
        if largest <= 0.0:
            return torch.from_numpy(np.full(T, 1.0 / T))
        eigenvalues, V = np.linalg.eigh(G / largest)
        alive = eigenvalues > ROUNDING * T * eigenvalues[-1]
        L, V = eigenvalues[alive], V[:, alive]  # [R], [T, R]
        length = {"min": L[0], "median": np.sort(L)[(len(L) - 1) // 2], "rmse": L.mean()}[self.scale_mode]
        return torch.from_numpy((V * np.sqrt(length / L)) @ V.sum(0) / T)
