"""Executors: where trials run. One small file each; all keep the same folders, so any of them can go on.

An executor only starts a trial, says whether it has ended, and stops it. What comes when, what is tried
again, and what is shown is the business of `manyloss.lab.runs.execution`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from manyloss.lab.runs.trial import TrialSpec


@dataclass(frozen=True)
class Ended:
    """A trial is over. It wrote its result, unless it was ``lost``; ``stop`` says why no trial can go on."""

    lost: str | None = None
    stop: str | None = None


class Running(Protocol):
    """A trial that was started."""

    def poll(self) -> Ended | None:
        """How it ended; None while it runs."""
        ...

    def stop(self) -> None:
        """End it, whatever it does; its last whole epoch is kept."""
        ...


class Executor(Protocol):
    """Runs trials somewhere that shares the run folder."""

    #: So many at a time.
    capacity: int

    def start(self, spec: TrialSpec) -> Running:
        """Run this trial."""
        ...

    def close(self) -> None:
        """No more trials come."""
        ...


class Lent:
    """An executor that several studies use one after the other: its owner closes it, they do not."""

    def __init__(self, owned: Executor) -> None:
        self.owned = owned
        self.capacity = owned.capacity

    def start(self, spec: TrialSpec) -> Running:
        """Run this trial."""
        return self.owned.start(spec)

    def close(self) -> None:
        """More studies may come."""
