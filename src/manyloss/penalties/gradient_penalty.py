"""Gradient penalty (Drucker and Le Cun 1991; Gulrajani et al. 2017), a baseline of GradDrop's Table 1."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.penalties._base import Penalty


class GradientPenalty(Penalty):
    """A penalty on the squared norm of the summed loss's gradient, per example.

    weight * mean_b ||grad_{A_b} L_b||^2, L_b the summed loss of example b, A_b its features.

    Losses are taken to be means over the batch, so the gradient that arrives at A_b is 1/B of example b's
    own. At shared parameters, where examples cannot be told apart: weight * ||grad_W sum_i L_i||^2.

    Args:
        weight: 0 or more.

    """

    search: ClassVar = {"weight": (0.001, 0.01, 0.1, 1.0)}

    def __init__(self, weight: float) -> None:
        super().__init__()
        checks.not_negative("weight", weight)
        self.weight = weight

    def forward(self, gradients: LossGradients) -> Tensor:
        """The penalty, a scalar."""
        if gradients.place == "shared_params":
            return self.weight * gradients.tensors[0].sum(0).square().sum()
        parts = []
        for tensor in gradients.tensors:  # [T, B, *F]
            # Ranks may hold parts of unlike size; all are scaled as in the whole batch.
            sizes = gradients.ranks.gather_sizes(tensor.shape[1])
            B = sum(sizes) / len(sizes)
            parts.append((B * tensor.sum(0)).square().sum() / B)
        return self.weight * torch.stack(parts).sum()
