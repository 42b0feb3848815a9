"""Mean and standard deviation of pairwise cosines, as they run: what CosReg's paper reports.

The paper takes the standard deviation over windows of 50 steps (Fig. 5), over the first epoch (Fig. 3) and
over the whole training (Table 1). State is plain numbers, so it travels in a method's ``memory``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

Span = Literal["window", "first_epoch", "training"]
WINDOW = 50


def pair_name(first: str, second: str) -> str:
    """The name of a pair of losses."""
    return f"{first}|{second}"


class RunningCosines:
    """Collects the cosines of every pair of losses.

    Args:
        memory: the dict that holds the state; it may come from a checkpoint.

    """

    def __init__(self, memory: dict[str, Any]) -> None:
        self.memory = memory

    def add(self, names: Sequence[str], cosines: Tensor) -> None:
        """Take in one step's cosines [T, T]."""
        pairs = self.memory.setdefault("pairs", {})
        first_epoch = not self.memory.get("epoch_ended", False)
        values = cosines.tolist()
        for i, first in enumerate(names):
            for j in range(i + 1, len(names)):
                pair = pairs.setdefault(
                    pair_name(first, names[j]), {"training": _empty(), "first_epoch": _empty(), "window": []}
                )
                _welford(pair["training"], values[i][j])
                if first_epoch:
                    _welford(pair["first_epoch"], values[i][j])
                pair["window"].append(values[i][j])
                del pair["window"][:-WINDOW]

    def end_epoch(self) -> None:
        """The first epoch is over."""
        self.memory["epoch_ended"] = True

    def std(self, span: Span = "training") -> dict[str, float]:
        """Standard deviation per pair, named ``"a|b"``; nan before the second value."""
        return {name: self._std(pair, span) for name, pair in self.memory.get("pairs", {}).items()}

    def mean(self) -> dict[str, float]:
        """Mean over the training per pair."""
        return {name: pair["training"]["mean"] for name, pair in self.memory.get("pairs", {}).items()}

    @staticmethod
    def _std(pair: dict[str, Any], span: Span) -> float:
        summary = pair[span]
        if span == "window":
            summary = _empty()
            for value in pair["window"]:
                _welford(summary, value)
        count = summary["count"]
        return math.sqrt(summary["squares"] / (count - 1)) if count > 1 else math.nan


def _empty() -> dict[str, float]:
    return {"count": 0, "mean": 0.0, "squares": 0.0}


def _welford(summary: dict[str, float], value: float) -> None:
    summary["count"] += 1
    delta = value - summary["mean"]
    summary["mean"] += delta / summary["count"]
    summary["squares"] += delta * (value - summary["mean"])
