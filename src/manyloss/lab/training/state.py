"""What a training knows about itself between two epochs, and the result of one without an end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from manyloss.diagnostics.running import RunningCosines, Span

Record = dict[str, Any]


@dataclass
class Means:
    """Running means by name; a name counts only where it is present."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, float], count: int = 1) -> None:
        """Values, each for so many examples."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * count
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """Of every name so far."""
        return {name: self.sums[name] / self.counts[name] for name in self.sums}


@dataclass
class State:
    """All that a training knows about itself, beside model, optimiser, method and random generators."""

    epoch: int = 0
    #: The epoch that is tested: "epoch", "score", "validation", and "model", its weights.
    best: dict[str, Any] | None = None
    #: Validation metrics after the first epoch: the units of `Problem.score`.
    first: dict[str, float] = field(default_factory=dict)
    #: Of the losses' weights over all steps.
    weights: Means = field(default_factory=Means)
    step_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    #: Of the losses' gradients, as a `ConflictRecorder` keeps them; None before the first were measured.
    cosines: RunningCosines | None = None
    #: Epoch, and the share of the gradients at the features that GradDrop passes, or would pass.
    passed: list[tuple[int, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors."""
        best = self.best
        self_without_best = asdict(State(**{**vars(self), "best": None}))
        return {**self_without_best, "best": best}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> State:
        """What `to_dict` gave."""
        cosines = values["cosines"]
        read = {
            "weights": Means(**values["weights"]),
            "cosines": None if cosines is None else RunningCosines(**cosines),
        }
        return cls(**{**values, **read})

    def sigma(self, names: Sequence[str], span: Span) -> dict[str, float]:
        """Sample standard deviation (n - 1) of each pair's cosine; a pair seen once has none."""
        found = {} if self.cosines is None else self.cosines.std(names, span)
        return {pair: value for pair, value in found.items() if math.isfinite(value)}


def failure(
    status: str, reason: str, state: State | None = None, warnings: Mapping[str, int] | None = None
) -> Record:
    """The result of a training without an end; what its last epochs found and what it warned of stays."""
    result: Record = {"status": status, "reason": reason, "best_epoch": None, "validation": {}, "test": {}}
    if state is not None and state.best is not None:
        result |= {"best_epoch": state.best["epoch"], "validation": state.best["validation"]}
    if state is not None and state.step_ms:
        result |= {"step_ms": statistics.median(state.step_ms), "seconds": state.seconds}
    if warnings:
        result["warnings"] = dict(warnings)
    return result
