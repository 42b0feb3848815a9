"""A loss that a method has all but switched off, noticed within the step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

SHARE = 0.01
"""Below this share of all weights a loss counts as neglected."""
EVERY, LOOKS = 10, 20
"""One look in so many steps; so many looks in a row make a finding."""


class Neglect:
    """Counts, per loss, how often in a row its share of the weights was below 1 %."""

    def __init__(self) -> None:
        self._steps = 0
        self._low: dict[str, int] = {}

    def look(self, names: Sequence[str], weights: Sequence[float] | Tensor) -> tuple[str, float] | None:
        """Take in the weights of one step.

        Returns:
            a loss that was neglected in all of the last looks, and its share; None if there is none.

        """
        self._steps += 1
        if self._steps % EVERY or len(names) == 1:
            return None
        sizes = [abs(w) for w in (weights.tolist() if isinstance(weights, Tensor) else weights)]
        least = SHARE * sum(sizes)
        for name, size in zip(names, sizes, strict=True):
            self._low[name] = self._low.get(name, 0) + 1 if size < least else 0
            if self._low[name] == LOOKS:
                return name, size / sum(sizes)
        return None
