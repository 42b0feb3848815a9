"""UPGrad (Quinton and Rey 2024, "Jacobian descent for multi-objective optimization", eq. 5 and Prop. 1)."""

from __future__ import annotations

import numpy as np
import torch

from manyloss.gradients import LossGradients
from manyloss.linalg import Weights
from manyloss.quadratic import cosines_and_lengths, nonnegative_quadratic
from manyloss.weighting._base import GradientWeighting


class UPGrad(GradientWeighting):
    """The mean of the gradients, each projected onto the cone of directions that hurt no loss.

    d = 1/T sum_i pi(g_i), pi(g) the nearest d with <g_j, d> >= 0 for every j. With pi(g_i) = sum_j w_ij g_j,
    w_i = argmin w^T G w over w >= e_i. The result lies in that cone, too: a step along -d hurts no loss.
    Scale as published: that of the mean gradient, 1/T of the sum; use ``rescale`` to compare.
    """

    name = "upgrad"
    numbers = "projection coefficients"
    scale = "mean"

    def forward(self, gradients: LossGradients) -> Weights:
        """1/T sum_i w_ij. [T]"""
        if len(gradients.names) == 2:
            (a, c), (_, b) = gradients.products
            return [0.5 * (1.0 - c / a), 0.5 * (1.0 - c / b)] if c < 0.0 else [0.5, 0.5]
        C, lengths = cosines_and_lengths(gradients.gramian.numpy())
        alive = np.flatnonzero(lengths > 0.0)
        T = len(C)
        C, lengths = C[np.ix_(alive, alive)], lengths[alive]
        total = np.ones(T)
        for i in range(len(alive)):  # w_i = e_i + u / ||g_j||, in units of ||g_i||
            if C[i].min() < 0.0:
                total[alive] += nonnegative_quadratic(C, C[i]) * (lengths[i] / lengths)
        return torch.from_numpy(total / T)
