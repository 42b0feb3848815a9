"""The family of penalties: differentiable scalars made of per-loss gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from manyloss.gradients import LossGradients
from manyloss.plan import Needs
from manyloss.state import Method


class Penalty(Method, ABC):
    """A scalar of the per-loss gradients that joins the objective; it is differentiated twice.

    It is measured at ``shared_params`` if they are given, else at the features.
    """

    family = "penalty"
    needs = Needs(differentiable=True)

    @abstractmethod
    def forward(self, gradients: LossGradients) -> Tensor:
        """The penalty; ``gradients.tensors`` carry their graph here.

        Args:
            gradients: of the T losses present, differentiable.

        Returns:
            scalar, which the mean over the ranks' backward makes right on N ranks.

        """

    def learn(self, gradients: LossGradients) -> None:
        """Take in what this step showed, once it is known to be finite."""
