"""Learning-rate annealing for PINNs (Wang, Teng and Perdikaris 2021, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.linalg import as_rows, row_scales, vector
from manyloss.plan import Needs
from manyloss.state import State
from manyloss.weighting._base import GradientWeighting


@dataclass
class AnnealingState(State):
    """Weights of the losses, and the position of the residual's."""

    weights: list[float]
    residual: int


class LearningRateAnnealing(GradientWeighting):
    """Gradients of the data terms as strong as the strongest entry of the residual's.

    w_i <- (1 - rate) w_i + rate max |g_r| / mean |g_i|, w_r = 1, over all entries of the gradients of the
    residual r and the data term i (initial and boundary conditions, measurements). Made for
    ``shared_params=model``, where all of a PINN is shared.

    Args:
        residual: the loss of the equation's residual; the first one when None.
        rate: of the moving average, in [0, 1]; the paper's code keeps 0.9 of the old weight.

    Raises:
        ValueError: at the first step, no loss has the residual's name.

    """

    name = "lr-annealing"
    needs = Needs(norms=True, gradients=True, replaces=True)
    scale = "free"
    search: ClassVar = {"rate": (0.01, 0.1, 0.5)}
    learns = AnnealingState
    state: AnnealingState

    def __init__(self, residual: str | None = None, rate: float = 0.1) -> None:
        super().__init__()
        checks.name_of_a_loss("residual", residual)
        checks.within("rate", rate, 0.0, 1.0)
        self.residual, self.rate = residual, rate

    def first_state(self, names: tuple[str, ...]) -> AnnealingState:
        """Ones."""
        if self.residual is not None:
            checks.one_of("residual of LearningRateAnnealing", self.residual, names)
        position = 0 if self.residual is None else names.index(self.residual)
        return AnnealingState(weights=[1.0] * len(names), residual=position)

    def forward(self, gradients: LossGradients) -> list[float]:
        """The moving averages, with this step's. [T]"""
        weights, residual = list(self.state.weights), self.state.residual
        at = list(self.positions(gradients.names))
        if residual in at:
            largest, means = _largest_and_means(gradients, at.index(residual))
            for i, mean in zip(at, means, strict=True):
                if i != residual and mean > 0.0:
                    wanted = largest / mean
                    weights[i] = (1.0 - self.rate) * weights[i] + self.rate * wanted
        self.pending = replace(self.state, weights=weights)
        return [weights[i] for i in at]


def _largest_and_means(gradients: LossGradients, residual: int) -> tuple[float, list[float]]:
    """Largest |entry| of one gradient and mean |entry| of each, over all ranks' batches."""
    tensors, ranks = gradients.tensors, gradients.spread
    sums = torch.stack([as_rows(tensor).abs().sum(1) for tensor in tensors]).sum(0)
    count = sum(tensor[0].numel() for tensor in tensors)
    # One message: the sums, the count, and every rank's maximum in a place of its own.
    maxima = [0.0] * ranks.world
    maxima[ranks.rank] = row_scales(tensors).tolist()[residual]
    numbers = ranks.sum(vector([*sums.tolist(), float(count), *maxima])).tolist()
    T = len(gradients.names)
    return max(numbers[T + 1 :]), [total / numbers[T] for total in numbers[:T]]
