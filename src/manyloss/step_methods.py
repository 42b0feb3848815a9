"""The methods of one MultiLoss, led through a step together: all of them learn from it, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from manyloss.aggregation import Aggregator
from manyloss.distributed import Ranks
from manyloss.errors import CheckpointError
from manyloss.linalg import plain
from manyloss.penalties import Penalty
from manyloss.plan import Needs
from manyloss.state import Method, tensor_to_text
from manyloss.strategies import Outcome, Step
from manyloss.weighting import Weighting


@dataclass
class Before:
    """What the methods were before a step.

    Attributes:
        first: it is their first step.
        draws: the states of their generators.

    """

    first: bool
    draws: list[Tensor | None]


class Methods:
    """A weighting, an aggregator and penalties.

    Args:
        weighting: one number per loss.
        aggregator: merges gradients.
        penalties: scalars of the gradients.
        rescales: the merged gradient is rescaled, which replaces what arrives.

    """

    def __init__(
        self, weighting: Weighting, aggregator: Aggregator, penalties: Sequence[Penalty], rescales: bool
    ) -> None:
        self.weighting = weighting
        self.aggregator = aggregator
        self.penalties = tuple(penalties)
        self.all: tuple[Method, ...] = (weighting, aggregator, *penalties)
        self.needs = Needs(replaces=rescales)
        for method in self.all:
            self.needs = self.needs | method.needs
        self.need_nothing = self.needs == Needs()

    def begin(self, names: tuple[str, ...], ranks: Ranks) -> Before:
        """Fit the methods to the names of the losses, once, and let all ranks begin alike."""
        before = Before(
            self.weighting.names is None,
            [None if method.generator is None else method.generator.get_state() for method in self.all],
        )
        if before.first:
            try:
                for method in self.all:
                    method.start(names)
            except BaseException:
                self._reset()
                raise
        if self.weighting.ranks is not ranks:
            for method in self.all:
                method.ranks = ranks
                if method.generator is not None:
                    ranks.share_generator(method.generator)
        return before

    def weigh(self, step: Step) -> Tensor | None:
        """Let every method look at the losses; returns their values if one needs them.

        Raises:
            ValueError: a loss has a value that a method cannot work with.

        """
        values = step.losses.values if self.needs.values else None
        if values is not None:
            for method in self.all:
                method.check(step.names, values)
        weights = self.weighting.weigh_losses(step.names, values)
        if weights is not None:
            step.weights = plain(weights)
        return values

    def undo(self, before: Before) -> None:
        """The step was skipped or failed: all are what they were."""
        for method, state in zip(self.all, before.draws, strict=True):
            method.discard()
            if method.generator is not None and state is not None:
                method.generator.set_state(state)
        if before.first:
            self._reset()

    def learn(self, step: Step, outcome: Outcome, values: Tensor | None) -> None:
        """The step was written: take in what it showed."""
        norms = outcome.measured.norms if outcome.measured is not None and step.plan.norms else None
        self.weighting.learn(step.names, values, norms)  # type: ignore[arg-type]  # None where not needed
        for penalty in self.penalties:
            assert outcome.measured is not None
            penalty.learn(outcome.measured)
        for method in self.all:
            method.commit()

    def check_saved(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Look at what is saved for every method before any of them takes it over.

        Raises:
            CheckpointError: it belongs to other methods or losses.

        """
        mine: dict[str, Method] = {"weighting": self.weighting, "aggregator": self.aggregator}
        mine |= {f"penalties.{i}": penalty for i, penalty in enumerate(self.penalties)}
        saved = {
            key.removeprefix(prefix).removesuffix(".method"): tensor_to_text(value)
            for key, value in state_dict.items()
            if key.startswith(prefix) and key.endswith(".method")
        }
        labels = {name: method.label for name, method in mine.items()}
        if saved and saved != labels:
            raise CheckpointError(
                f"The checkpoint holds the state of {', '.join(saved.values())}, this object is "
                f"{', '.join(labels.values())}: build the same MultiLoss as the one that was saved."
            )
        for name, method in mine.items():
            method.check_saved(state_dict, f"{prefix}{name}.")

    def _reset(self) -> None:
        for method in self.all:
            method.reset()
