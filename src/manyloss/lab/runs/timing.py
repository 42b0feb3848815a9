"""How long a step takes, over the baseline's: measured in turns in one process, step by step.

Trials run beside each other and at different times, so that their own step times depend on what else the
machine does. Here a step of the arm and one of the baseline take turns, and the fastest of each are compared:
what another process does to a step only makes it slower, and more often a long step than a short one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

from manyloss.lab import checks
from manyloss.lab.arms import choose_arm
from manyloss.lab.runs import storage
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial, TrialSpec
from manyloss.lab.training import DivergedError, Training, random_states, set_random_states

FILE = "step_time.json"
#: Steps that are not counted: at least and at most; between them so many seconds.
WARM_UP, LONGEST_WARM_UP, WARM_UP_SECONDS = 2, 50, 0.3
#: Pairs of steps per arm: at least and at most; between them so many seconds per arm.
FEWEST, MOST, SECONDS = 5, 200, 1.0


def time_the_steps(study: Study) -> None:
    """Measure every arm that was not measured yet, and keep the ratios in the run folder.

    An arm that fails here, or whose seed has no finished trial to show that it works, has none. Trials that
    came from a GPU are not timed where there is none.
    """
    if study.source.script is not None or (study.device != "cpu" and not torch.cuda.is_available()):
        return
    path = study.root / FILE
    known = storage.read_json(path) or {}
    ratios: dict[str, float | None] = dict(known.get("ratios", {}))
    baseline = choose_arm(study.baseline, study.problem)
    specs = {spec.arm: spec for spec in reversed(study.trials()) if _finished(spec)}
    left = [arm.name for arm in study.arms if arm.name in specs and arm.name not in ratios]
    if baseline.name not in specs or not left:
        return
    try:
        # Should the process die of this, the next one does not try again.
        storage.write_json(path, {"baseline": baseline.name, "ratios": {**ratios, **dict.fromkeys(left)}})
    except checks.StorageError:
        return  # a folder that cannot be written can still be shown
    with _as_in_a_trial(study.threads):
        first = _Stepper(specs[baseline.name])
        for arm in left:
            with contextlib.suppress(DivergedError, RuntimeError, ValueError, checks.LabError):
                ratios[arm] = 1.0 if arm == baseline.name else _ratio(_Stepper(specs[arm]), first)
    storage.write_json(
        path, {"baseline": baseline.name, "ratios": {**dict.fromkeys(left), **ratios}, "most_pairs": MOST}
    )


def _finished(spec: TrialSpec) -> bool:
    result = storage.read_result(spec.folder)
    return result is not None and result["status"] == "finished"


class _Stepper:
    """One arm's training that does the same batch again and again."""

    def __init__(self, spec: TrialSpec) -> None:
        self.training: Training = Trial(spec).training()
        self.training.record_every = 10**9
        # What grows with the epochs is there by half of them.
        problem = self.training.problem
        problem.start_epoch(self.training.trainer, problem.epochs // 2)
        self.training.model.train()
        self.batch = self.training.batch(0)
        for group in self.training.optimizer.param_groups:
            group["lr"] = group["lr"] * 0  # the same work, but a batch learned by heart may diverge
        end = time.perf_counter() + WARM_UP_SECONDS
        for number in range(LONGEST_WARM_UP):
            if number >= WARM_UP and time.perf_counter() > end:
                break
            self.step()

    def step(self) -> float:
        """Milliseconds of one step, the optimiser's included."""
        return self.training.step(1, *self.batch)


def _ratio(arm: _Stepper, baseline: _Stepper) -> float:
    """The fastest step of one over that of the other; who goes first changes from pair to pair."""
    mine: list[float] = []
    theirs: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(mine) < FEWEST or (len(mine) < MOST and time.perf_counter() < end):
        if len(mine) % 2:
            mine.append(arm.step())
            theirs.append(baseline.step())
        else:
            theirs.append(baseline.step())
            mine.append(arm.step())
    return min(mine) / min(theirs)


@contextlib.contextmanager
def _as_in_a_trial(threads: int) -> Iterator[None]:
    """A trial's threads; the random numbers of this process stay as they were."""
    before: tuple[int, dict[str, Any]] = torch.get_num_threads(), random_states()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        set_random_states(before[1])
