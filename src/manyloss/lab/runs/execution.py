"""Execution: which trial comes when. A lost process costs at most its trial's running epoch."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manyloss.lab import checks
from manyloss.lab.runs import storage
from manyloss.lab.runs.executors import Executor, Running
from manyloss.lab.runs.progress import Display, duration
from manyloss.lab.runs.trial import TrialSpec, write_failure

#: A trial whose process is lost (killed, out of memory, a fault in native code) goes on so many times.
LIVES = 2
#: Seconds between two looks at the running trials.
LOOK_EVERY = 0.05

Key = tuple[str, int]
Result = dict[str, Any]


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(trials: int, jobs: int | None) -> tuple[int, int]:
    """Processes, and threads in each: never more threads than cores, unless more jobs are asked for.

    ``OMP_NUM_THREADS``, where it is set, is a limit, as it is of torch itself.
    """
    processes = max(1, min(jobs or cores(), trials))
    threads = max(1, cores() // processes)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return processes, min(threads, int(limit)) if limit.isdecimal() and int(limit) else threads


class FruitlessError(Exception):
    """The first trials, ``specs``, crashed before their first epoch for one ``reason``."""

    def __init__(self, specs: Sequence[TrialSpec], reason: str) -> None:
        super().__init__(f"the first trials crashed alike: {reason}")
        self.specs, self.reason = tuple(specs), reason


@dataclass
class _Started:
    spec: TrialSpec
    running: Running
    since: float
    #: Content and time of its last sign of life.
    sign: bytes = b""
    heard: float = 0.0


@dataclass
class Execution:
    """Trials that are to be run, in this order as far as their prerequisites allow; the last ones by length.

    ``timeout`` is how many seconds a trial may take, from its start or from where it goes on. ``untried``
    trials are of a script that nothing has run before: when the first ones crash alike before one has logged
    anything, the others would, too.
    """

    specs: Sequence[TrialSpec]
    requires: Mapping[Key, Sequence[Key]]
    executor: Executor
    display: Display
    timeout: float | None = None
    untried: bool = False
    _started: list[_Started] = field(default_factory=list)
    _lost: dict[Key, int] = field(default_factory=dict)
    #: Those that crashed before they had logged anything, while no other had, with their reasons.
    _fruitless: list[tuple[TrialSpec, str]] = field(default_factory=list)

    def run(self) -> dict[Key, Result]:
        """The results by (arm, seed).

        Raises:
            StorageError: the folder cannot be used; what has finished is kept.
            KeyboardInterrupt: the user has stopped it; what has finished is kept.
            FruitlessError: trials that nothing has tried out crash alike.

        """
        pending = list(self.specs)
        results: dict[Key, Result] = {}
        try:
            while self._started or (pending and not self._crash_alike()):
                if not self._crash_alike():
                    self._hand_out(pending, results)
                for started in list(self._started):
                    self._look(started, pending, results)
                time.sleep(LOOK_EVERY)
        finally:
            for started in self._started:
                started.running.stop()
            self.executor.close()
        if self._crash_alike():
            raise FruitlessError([spec for spec, _ in self._fruitless], self._fruitless[0][1])
        return results

    def _hand_out(self, pending: list[TrialSpec], results: Mapping[Key, Result]) -> None:
        free = self.executor.capacity - len(self._started)
        if free <= 0:
            return
        unfinished = {(spec.arm, spec.seed) for spec in self.specs} - set(results)
        ready = [
            spec
            for spec in self.in_order(pending, results)
            if not unfinished.intersection(self.requires.get((spec.arm, spec.seed), ()))
        ]
        for spec in ready[:free]:
            pending.remove(spec)
            now = time.monotonic()
            (spec.folder / "alive.json").unlink(missing_ok=True)
            self._started.append(_Started(spec, self.executor.start(spec), now, heard=now))

    def in_order(self, pending: Sequence[TrialSpec], results: Mapping[Key, Result]) -> list[TrialSpec]:
        """As they were given; of the last two rounds the longest first, else one of them runs last, alone.

        How long a trial takes is what its arm took in other seeds, with what waits for it; an arm without a
        result may take any time.
        """
        if len(pending) > 2 * self.executor.capacity:
            return list(pending)
        took: dict[str, float] = {}
        for (arm, _), result in results.items():
            took[arm] = max(took.get(arm, 0.0), result.get("seconds") or 0.0)
        waiting: dict[Key, list[TrialSpec]] = {}
        for spec in pending:
            for needed in self.requires.get((spec.arm, spec.seed), ()):
                waiting.setdefault(needed, []).append(spec)

        def length(spec: TrialSpec) -> float:
            longest = max(map(length, waiting.get((spec.arm, spec.seed), ())), default=0.0)
            return took.get(spec.arm, math.inf) + longest

        return sorted(pending, key=length, reverse=True)

    def _crash_alike(self) -> bool:
        """Whether two methods, or the only one in two seeds, met the same end before the first epoch."""
        of_all = len({spec.arm for spec in self.specs})
        arms = {spec.arm for spec, _ in self._fruitless}
        several = len(self._fruitless) > 1 and len(arms) >= min(2, of_all)
        return self.untried and several and len({reason for _, reason in self._fruitless}) == 1

    def _look(self, started: _Started, pending: list[TrialSpec], results: dict[Key, Result]) -> None:
        spec = started.spec
        self._follow(started)
        self.untried = self.untried and not storage.size(spec.folder / "log.jsonl")
        ended = started.running.poll()
        if ended is None:
            if self.timeout is not None and time.monotonic() - started.since > self.timeout:
                started.running.stop()
                silent = duration(time.monotonic() - started.heard)
                self._end(
                    started,
                    results,
                    f"it took longer than --trial-timeout {self.timeout:g} (seconds); its last sign of life "
                    f"was {silent} before",
                )
            return
        if ended.stop is not None:
            raise checks.StorageError(ended.stop)
        result = storage.read_result(spec.folder)
        lost = ended.lost or (None if result is not None else "its process ended without a result")
        if lost is None or result is not None:
            self._end(started, results)
            return
        key = spec.arm, spec.seed
        self._lost[key] = self._lost.get(key, 0) + 1
        if self._lost[key] < LIVES:
            self._started.remove(started)
            self.display.again(spec.label, lost)
            pending.insert(0, spec)
        else:
            self._end(started, results, f"{lost}, twice")

    def _end(self, started: _Started, results: dict[Key, Result], failed: str | None = None) -> None:
        """A trial is over, with its result or without one."""
        spec = started.spec
        self._started.remove(started)
        if failed is not None:
            result = write_failure(spec, failed)
        else:
            result = storage.read_result(spec.folder) or {}
        results[spec.arm, spec.seed] = result
        if self.untried and result.get("status") == "crashed":
            self._fruitless.append((spec, str(result["reason"])))
        self.display.end(spec.label, spec.epochs, result)

    def _follow(self, started: _Started) -> None:
        """Read its last sign of life."""
        spec = started.spec
        try:
            sign = (spec.folder / "alive.json").read_bytes()
            if sign != started.sign:
                said = json.loads(sign)
                started.sign, started.heard = sign, time.monotonic()
                losses = {str(name): float(value) for name, value in said["losses"].items()}
                self.display.follow(spec.label, float(said["epochs"]), spec.epochs, losses)
                return
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        self.display.silent(spec.label, time.monotonic() - started.heard)
