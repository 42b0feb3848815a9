"""The family of aggregators: many gradients become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from manyloss.state import Method


class Aggregator(Method, ABC):
    """Merges the (weighted) gradients of T losses at one place.

    Called with gradients [T, B, *F] and features [B, *F] it returns [B, *F]; at shared parameters with
    [T, P] and None it returns [P]. It works alone, outside a MultiLoss, too.
    """

    keeps_norm: bool = False
    """Whether it fixes the norm of its result itself, which rules out ``rescale``."""
    needs_features: ClassVar[bool] = False
    """Whether it is defined at features only."""

    def forward(
        self, gradients: Tensor, features: Tensor | None = None, names: Sequence[str] | None = None
    ) -> Tensor:
        """Merge at one tensor.

        Args:
            gradients: [T, B, *F], or [T, P].
            features: [B, *F], or None at shared parameters.
            names: of the losses; "0", "1", ... if they are not given.

        Returns:
            [B, *F], or [P].

        """
        named = [str(i) for i in range(gradients.shape[0])] if names is None else names
        return self.aggregate([gradients], [features], named)[0]

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at every features tensor, one after the other."""
        return [self.merge(g, a, names) for g, a in zip(gradients, features, strict=True)]

    @abstractmethod
    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """Merge at one tensor: [T, ...] -> [...]."""
