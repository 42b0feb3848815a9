"""Nash-MTL (Navon et al. 2022, "Multi-task learning as a bargaining game", eq. 4 and Algorithm 1)."""

from __future__ import annotations

import math

import torch

from manyloss.gradients import LossGradients
from manyloss.linalg import Weights
from manyloss.weighting._base import GradientWeighting
from manyloss.weighting.fairgrad import RIDGE, fair_weights


class NashMTL(GradientWeighting):
    """The Nash bargaining solution: no loss could fall faster without another losing more, in proportion.

    maximise sum_i log <g_i, d> over a ball; d = sum w_i g_i with G w = 1 / w elementwise, w > 0. The paper
    solves it by a sequence of convex approximations, here it is solved exactly (FairGrad with alpha = 1).
    Scale as published: ||d||^2 = T whatever the gradients' lengths, so the learning rate alone sets the size
    of a step; use ``rescale`` to compare. A zero gradient gets no weight. Heads see the plain losses.
    """

    name = "nash-mtl"
    scale = "free"

    def forward(self, gradients: LossGradients) -> Weights:
        """The weights w with G w = 1 / w. [T]"""
        if len(gradients.names) == 2:
            (a, c), (_, b) = gradients.products
            if a > 0.0 and b > 0.0:
                # w_i ||g_i|| is the same for both, by symmetry
                length_a, length_b = math.sqrt(a), math.sqrt(b)
                both = 1.0 / math.sqrt(max(1.0 + c / length_a / length_b, 0.0) + RIDGE)
                return [both / length_a, both / length_b]
        return torch.from_numpy(fair_weights(gradients.gramian.numpy(), 1.0))
