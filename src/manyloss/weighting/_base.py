"""The family of weightings: one number per loss.

A step calls the same methods of every weighting, whatever its kind::

    weigh_losses(names, values)    what the losses are multiplied with, so the heads see it
    weigh_gradients(gradients)     what the gradients are multiplied with where they are merged; None: nothing
                                   beyond what the losses were
    learn(names, values, norms)    after a step that was written

An author writes less: `weigh` (and `learn`) of a `LossWeighting`, or `forward` of a `GradientWeighting`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from manyloss.gradients import LossGradients
from manyloss.linalg import Weights, vector
from manyloss.plan import Needs
from manyloss.state import Method

Numbers = Literal["weights", "projection coefficients"]


class Weighting(Method, ABC):
    """One number per loss."""

    numbers: ClassVar[Numbers] = "weights"
    """How much each loss counts; or coordinates of projected gradients, where a large w_i says that others
    conflict with g_i, and not that L_i matters."""

    @abstractmethod
    def weigh_losses(self, names: Sequence[str], values: Tensor | None) -> Weights | None:
        """What scales the losses, heads included; None: nothing.

        Args:
            names: the losses present.
            values: [T] their values, float64, CPU; None unless a method ``needs`` values.

        Returns:
            [T], as a list of numbers, or a tensor in float64 on the CPU.

        """

    @abstractmethod
    def weigh_gradients(self, gradients: LossGradients) -> Weights | None:
        """What multiplies the plain gradients where they are merged; None: what scaled the losses.

        Args:
            gradients: of the T losses present, unweighted.

        Returns:
            [T], as a list of numbers, or a tensor in float64 on the CPU.

        """

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Take in what this step showed.

        Args:
            names: the losses present.
            values: [T] their values, float64, CPU; None unless ``needs.values``.
            norms: [T] ||grad L_i|| of the unweighted losses, float64, CPU; None unless ``needs.norms``.

        """


class LossWeighting(Weighting):
    """A weighting that scales the losses, so the heads see it too.

    A step calls :meth:`weigh` before the backward and :meth:`learn` after it, and only if all was finite.
    """

    family = "loss weighting"
    needs = Needs(values=True)

    @abstractmethod
    def weigh(self, names: Sequence[str], values: Tensor) -> Weights:
        """Weights of this step; changes nothing learned, so that a skipped step leaves no trace.

        Args:
            names: the losses present.
            values: [T] their values, float64, CPU; None unless ``needs.values``.

        Returns:
            [T], as a list of numbers, or a tensor in float64 on the CPU.

        """

    def weigh_losses(self, names: Sequence[str], values: Tensor | None) -> Weights:
        """:meth:`weigh`."""
        return self.weigh(names, values)  # type: ignore[arg-type]  # None only where no values are needed

    def weigh_gradients(self, gradients: LossGradients) -> None:
        """Nothing beyond the scaled losses."""


class GradientWeighting(Weighting):
    """A weighting that scales only what reaches the shared part; the heads see the plain losses.

    Called alone (``method(LossGradients.of(tensor))``) it starts itself and learns; in a step, MultiLoss says
    when.
    """

    family = "gradient weighting"
    needs = Needs(gramian=True, replaces=True)

    @abstractmethod
    def forward(self, gradients: LossGradients) -> Weights:
        """Weights from the per-loss gradients; changes nothing learned: a new state goes to ``pending``.

        Args:
            gradients: of the T losses present, unweighted.

        Returns:
            [T], as a list of numbers, or a tensor in float64 on the CPU.

        """

    def weigh_losses(self, names: Sequence[str], values: Tensor | None) -> None:
        """Heads see the plain losses."""

    def weigh_gradients(self, gradients: LossGradients) -> Weights:
        """:meth:`forward`."""
        return self.forward(gradients)

    def __call__(self, gradients: LossGradients) -> Tensor:
        """The weights, outside of a step."""
        if self.names is None:
            self.start(gradients.names)
        weights = vector(self.forward(gradients))
        self.commit()
        return weights
