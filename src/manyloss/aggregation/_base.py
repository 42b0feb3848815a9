"""The family of aggregators: many gradients become one.

A step calls `aggregate` with every features tensor, or the one matrix at shared parameters. An author writes
`merge`, for one of them. An aggregator that learns leaves what it learned in ``pending``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss.plan import Needs
from manyloss.precision import full_precision
from manyloss.state import Method


class Aggregator(Method, ABC):
    """Merges the (weighted) gradients of T losses at one place.

    Called with gradients [T, B, *F] and features [B, *F] it returns [B, *F]; at shared parameters with
    [T, P] and None it returns [P]. It works alone, outside a MultiLoss, too.
    """

    family = "aggregator"
    needs = Needs(gradients=True, replaces=True)
    positionwise: bool = False
    """Whether every position is merged by itself, so that [T, P] may come in pieces."""
    keeps_norm: bool = False
    """Whether it fixes the norm of its result itself, which rules out ``rescale``."""

    def forward(
        self, gradients: Tensor, features: Tensor | None = None, names: Sequence[str] | None = None
    ) -> Tensor:
        """Merge at one tensor, outside of a step; one that learns does so at once.

        Args:
            gradients: [T, B, *F], or [T, P]; complex ones reach :meth:`merge` with a last axis of 2.
            features: [B, *F], or None at shared parameters.
            names: of the losses; "0", "1", ... if they are not given.

        Returns:
            [B, *F], or [P].

        """
        named = [str(i) for i in range(gradients.shape[0])] if names is None else names
        if self.names is None:
            self.start(named)
        # As in a step: single precision at least, and complex numbers as pairs of real ones.
        rows = full_precision(gradients)
        rows = torch.view_as_real(rows) if rows.is_complex() else rows
        (merged,) = self.aggregate([rows], [features], named)
        self.commit()
        merged = torch.view_as_complex(merged.contiguous()) if gradients.is_complex() else merged
        return merged.to(gradients.dtype)

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at every features tensor, one after the other; changes nothing learned."""
        return [self.merge(g, a, names) for g, a in zip(gradients, features, strict=True)]

    @abstractmethod
    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """Merge at one tensor: [T, ...] -> [...]."""
