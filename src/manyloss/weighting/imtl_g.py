"""IMTL-G (Liu et al. 2021, "Towards impartial multi-task learning", section 3.1 and eq. 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from manyloss.gradients import LossGradients
from manyloss.quadratic import cosines_and_lengths
from manyloss.weighting._base import GradientWeighting


class IMTLG(GradientWeighting):
    """The combination whose projections onto all the gradients are equally long.

    <d, g_i> / ||g_i|| is the same for every i, d = sum w_i g_i, sum w = 1. So G w is proportional to the
    norms. Weights may be negative; when they add up to less than 0 before they are scaled to 1, as published,
    the step goes against every loss. A zero gradient has no direction and gets no weight.
    Scale as published: the weights sum to 1; use ``rescale`` to compare.
    """

    name = "imtl-g"
    scale = "convex combination"

    def forward(self, gradients: LossGradients) -> Tensor:
        """C^-1 1 / ||g_i||, C the cosines, scaled to sum 1. [T]"""
        C, lengths = cosines_and_lengths(gradients.gramian.numpy())
        T = len(C)
        alive = lengths > 0.0
        weights = np.zeros(T)
        if not alive.any():
            return torch.from_numpy(np.full(T, 1.0 / T))
        shortest = lengths[alive].min()
        equal = np.linalg.pinv(C[np.ix_(alive, alive)], rcond=1e-12, hermitian=True).sum(1)
        weights[alive] = equal * (shortest / lengths[alive])
        total = weights.sum()
        if abs(total) <= 1e-12 * np.abs(weights).sum():  # such as exact opposites: no such d but 0
            return torch.from_numpy(np.zeros(T))
        return torch.from_numpy(weights / total)
