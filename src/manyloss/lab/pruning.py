"""Median pruning: a tried setting stops early when it is behind those that were tried before it.

What it is measured against is fixed before it starts, so that it stops at the same epoch whatever else runs
beside it, and after a kill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

#: So many finished settings of the same method are needed before another one can be behind them.
ENOUGH = 4
#: This share of the epochs is never pruned.
WARM_UP = 1 / 3


class PrunedError(Exception):
    """A trial is behind and stops."""


def gain(
    values: Mapping[str, float], reference: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> float:
    """Mean over the metrics of ``±(value - reference) / |reference|``, + is better: what tuning maximises.

    A metric whose reference is 0 is not divided. NaN where a value is not finite.
    """
    changes = []
    for name, higher in higher_is_better.items():
        value, before = values.get(name, math.nan), reference.get(name, math.nan)
        change = (value - before) / (abs(before) or 1.0)
        changes.append(change if higher else -change)
    return fmean(changes) if changes else math.nan


def so_far(gains: Sequence[float], keep_last: bool = False) -> list[float]:
    """By epoch, the best until then; each epoch's own where the last one is what is tested."""
    if keep_last:
        return list(gains)
    best, found = -math.inf, []
    for value in gains:
        best = max(best, value) if math.isfinite(value) else best
        found.append(best)
    return found


@dataclass(frozen=True)
class Pruning:
    """When to stop.

    ``medians`` has an entry for each epoch that is judged: None in the warm-up.
    """

    reference: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    medians: tuple[float | None, ...]
    keep_last: bool = False

    @classmethod
    def against(
        cls,
        earlier: Sequence[Sequence[Mapping[str, float]]],
        reference: Mapping[str, float],
        higher_is_better: Mapping[str, bool],
        keep_last: bool = False,
    ) -> Pruning | None:
        """Against finished settings: for each its validation metrics by epoch; None while they are few."""
        if len(earlier) < ENOUGH:
            return None
        curves = [
            so_far([gain(values, reference, higher_is_better) for values in epochs], keep_last)
            for epochs in earlier
        ]
        epochs = min(map(len, curves))
        warm_up = math.ceil(epochs * WARM_UP)
        medians = tuple(
            None if epoch < warm_up else median(curve[epoch] for curve in curves)
            for epoch in range(epochs - 1)  # stopping after the last epoch saves nothing
        )
        return cls(dict(reference), dict(higher_is_better), medians, keep_last)

    def behind(self, epochs: Sequence[Mapping[str, float]]) -> str | None:
        """Why a trial with these validation metrics by epoch stops; None: it goes on."""
        gains = [gain(values, self.reference, self.higher_is_better) for values in epochs]
        for epoch, (value, middle) in enumerate(
            zip(so_far(gains, self.keep_last), self.medians, strict=False), start=1
        ):
            if middle is not None and not value >= middle:
                return (
                    f"after epoch {epoch} at {100 * value:+.2f}%, where the median of the settings before it "
                    f"was at {100 * middle:+.2f}%"
                )
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "medians": [None if m is None or math.isinf(m) else m for m in self.medians]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pruning:
        """What `to_dict` gave."""
        return cls(
            values["reference"], values["higher_is_better"], tuple(values["medians"]), values["keep_last"]
        )
