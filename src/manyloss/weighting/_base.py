"""The family of weightings: one number per loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from manyloss.gradients import LossGradients
from manyloss.state import Method


class Weighting(Method, ABC):
    """One number per loss; ``scales`` says what it multiplies."""

    scales: ClassVar[Literal["losses", "gradients"]]


class LossWeighting(Weighting):
    """A weighting that scales the losses, so the heads see it too.

    A step calls :meth:`weigh` before the backward and :meth:`learn` after it, and only if all was finite.
    """

    scales = "losses"
    measures_norms: ClassVar[bool] = False
    """Whether :meth:`learn` needs the norms of the gradients (at ``shared_params``, else at the features)."""

    @abstractmethod
    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """Weights of this step; changes nothing, so that a skipped step leaves no trace.

        Args:
            names: the losses present.
            values: [T] their values, float64, CPU.

        Returns:
            [T], float64, CPU.

        """

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor | None) -> None:
        """Take in what this step showed.

        Args:
            names: the losses present.
            values: [T] their values, float64, CPU.
            norms: [T] ||grad L_i|| of the unweighted losses, if ``measures_norms``.

        """


class GradientWeighting(Weighting):
    """A weighting that scales only what reaches the shared part; the heads see the plain losses."""

    scales = "gradients"

    @abstractmethod
    def forward(self, gradients: LossGradients) -> Tensor:
        """Weights from the per-loss gradients.

        Args:
            gradients: of the T losses present.

        Returns:
            [T], float64, CPU.

        """
