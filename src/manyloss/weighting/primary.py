"""Primary (after A-GEM, Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM", eq. 11)."""

from __future__ import annotations

import torch
from torch import Tensor

from manyloss.checks import listed
from manyloss.gradients import LossGradients
from manyloss.weighting._base import GradientWeighting


class Primary(GradientWeighting):
    """One loss's gradient stays whole; the others lose what conflicts with it, and nothing else.

    g_i <- g_i - min(<g_i, g_p>, 0) / ||g_p||^2 g_p for every i != p, and the sum is written: A-GEM's
    projection (Chaudhry et al. 2019, eq. 11) of each auxiliary gradient, with the primary loss's as the
    reference. Along g_p the result is never shorter than g_p alone, so to first order the auxiliary losses
    cannot raise the primary one. Conflicts of the others among each other stay. w_i = 1; w_p >= 1 is g_p's
    total.

    Departure: A-GEM's reference is the mean gradient over a memory of old tasks, and there is one gradient to
    project; here each auxiliary loss is projected by itself.

    Args:
        loss: the primary one, by name or by position. In a step without it, the plain sum is written.

    """

    name = "primary"
    numbers = "projection coefficients"

    def __init__(self, loss: str | int = 0) -> None:
        super().__init__()
        if isinstance(loss, bool) or not isinstance(loss, (str, int)):
            raise TypeError(f"loss must be a name or a position, got {loss!r}.")
        self.loss = loss

    def first_state(self, names: tuple[str, ...]) -> None:
        """Nothing is learned; the setting has to name one of the losses.

        Raises:
            ValueError: there is no such loss.

        """
        known = self.loss in names if isinstance(self.loss, str) else -len(names) <= self.loss < len(names)
        if not known:
            raise ValueError(
                f"Primary: loss={self.loss!r} is none of the {len(names)} losses {listed(names)}: name one "
                "of them, or give its position."
            )

    def forward(self, gradients: LossGradients) -> Tensor:
        """Weights. [T]"""
        weights = torch.ones(len(gradients.names), dtype=torch.float64, device="cpu")
        assert self.names is not None
        primary = self.loss if isinstance(self.loss, str) else self.names[self.loss]
        if primary in gradients.names:
            p = gradients.names.index(primary)
            row = gradients.gramian[p]  # [T], <g_p, g_i>
            if row[p] > 0:
                conflicts = row.clamp(max=0.0)
                conflicts[p] = 0.0
                weights[p] -= conflicts.sum() / row[p]
        return weights
