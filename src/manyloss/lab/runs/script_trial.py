"""A trial that is a user's script: the same folder and the same result, from what the script logged."""

from __future__ import annotations

import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyloss import __version__
from manyloss.lab import checks
from manyloss.lab.arms import choose_arm
from manyloss.lab.pruning import Pruning
from manyloss.lab.runs import storage
from manyloss.lab.runs.executors.words import how_it_ended
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.trial import Trial, TrialSpec, environment
from manyloss.lab.scripts import VARIABLE, ScriptCall, choosing_metrics, shown_metrics
from manyloss.lab.training import Progress, failure, silent

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
#: So much of the end of a log is read for the reason of a crash.
TAIL = 20_000


def trial_of(spec: TrialSpec) -> Trial | ScriptTrial:
    """The trial of a problem, or of a script."""
    return Trial(spec) if spec.source.script is None else ScriptTrial(spec)


class ScriptTrial:
    """Runs a script once, as often as it takes. Use `run`; it returns the content of result.json."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self.folder = spec.folder
        assert spec.source.script is not None
        self.call: ScriptCall = spec.source.script
        self.chosen = choose_arm(spec.arm, spec.source.load())

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as far as the lab knows it."""
        return {
            "source": self.spec.source.identity(),
            "arm": self.chosen.name,
            "seed": self.spec.seed,
            "threads": self.spec.threads,
            **({} if self.spec.pruning is None else {"pruning": dict(self.spec.pruning)}),
            "manyloss": __version__,
        }

    def check_settings(self) -> bool:
        """Whether the folder holds this trial already; an error if it holds another one."""
        return storage.same_settings(self.folder / "settings.json", self.settings())

    def run(self, progress: Progress = silent) -> dict[str, Any]:
        """Run the script, and write the result from its log.

        Raises:
            StorageError: the folder is in use, of other settings, or cannot be written.

        """
        storage.make_folder(self.folder)
        with storage.only_writer(self.folder, wait=20.0):
            known = self.check_settings()
            done = storage.read_result(self.folder)
            if known and done is not None:
                return done
            storage.sweep(self.folder)
            if not known:
                storage.write_settings(self.folder, self.settings(), environment(self.spec.threads))
            if not any((self.folder / "script").glob("*")):
                # Nothing to go on from: what an earlier run logged was of another training.
                storage.cut(self.folder / "log.jsonl", 0)
            result = self._run(progress)
            storage.write_json(self.folder / "result.json", result)
        return result

    def _run(self, progress: Progress) -> dict[str, Any]:
        storage.write_bytes(self.folder / "spec.json", self.spec.to_json().encode())
        started = time.monotonic()
        kept: Source = self.spec.source
        if kept.kept is None:
            kept = kept.keep(self.spec.root / "source")
            spec = TrialSpec(**{**vars(self.spec), "source": kept})
            storage.write_bytes(self.folder / "spec.json", spec.to_json().encode())
        command = [*(shlex.split(self.call.launch) or [sys.executable]), str(BOOTSTRAP), *self.call.arguments]
        variables = {**os.environ, VARIABLE: str((self.folder / "spec.json").absolute())}
        try:
            process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL)
        except OSError as error:
            why = f"{command[0]!r} cannot be run: {error.strerror or error}. Look at --launch."
            return failure("crashed", why)
        try:
            seen = -1
            while (code := _wait(process, 0.5)) is None:
                length = storage.size(self.folder / "log.jsonl")
                if length != seen:
                    seen = length
                    progress(float(self._last_epoch()), {})
                    if self._behind() is not None:
                        _end(process)
        except BaseException:
            process.terminate()
            raise
        behind = self._behind()
        if behind is not None:
            result = failure("pruned", behind)
        else:
            result = self.result() if code == 0 else self._crashed(code)
        return {**result, "seconds": time.monotonic() - started}

    def _behind(self) -> str | None:
        """Why the script is stopped early; None: it goes on."""
        if self.spec.pruning is None:
            return None
        choosing = choosing_metrics(self.call.metrics)
        try:
            epochs = [epoch["metrics"] for epoch in self._epochs().values()]
        except (checks.LabError, KeyError, TypeError, ValueError):
            return None  # a line that is just being written
        judged = [values for values in epochs if set(choosing) <= set(values)]
        return Pruning.from_dict(self.spec.pruning).behind(judged)

    # -- from the log ------------------------------------------------------------------------------------

    def _epochs(self) -> dict[int, dict[str, Any]]:
        """Epoch -> what was logged in it; of a value logged twice, the later one."""
        epochs: dict[int, dict[str, Any]] = {}
        for record in storage.read_lines(self.folder / "log.jsonl"):
            kept = epochs.setdefault(int(record["epoch"]), {"metrics": {}, "step_ms": None, "losses": {}})
            kept["metrics"] |= {
                name: math.nan if value is None else float(value) for name, value in record["metrics"].items()
            }
            kept["step_ms"] = record.get("step_ms") or kept["step_ms"]
            kept["losses"] = record.get("losses") or kept["losses"]
        return dict(sorted(epochs.items()))

    def _last_epoch(self) -> int:
        try:
            return max(self._epochs(), default=0)
        except (checks.LabError, KeyError, TypeError, ValueError):
            return 0

    def result(self) -> dict[str, Any]:
        """The values of the chosen epoch, or why there are none."""
        epochs = self._epochs()
        shown, choosing = shown_metrics(self.call.metrics), choosing_metrics(self.call.metrics)
        logged = dict.fromkeys(name for epoch in epochs.values() for name in epoch["metrics"])
        absent = [name for name in {**shown, **choosing} if name not in logged]
        if absent:
            said = f"it logged {', '.join(logged)}" if logged else "it logged nothing"
            near = checks.closest(absent[0], logged)
            return failure("crashed", f"the script never called lab.log with {absent[0]!r}: {said}. {near}")
        storage.cut(self.folder / "epochs.jsonl", 0)
        lines = [
            {
                "epoch": number,
                "step_ms": epoch["step_ms"],
                "train": epoch["losses"],
                "validation": {"metrics": epoch["metrics"], "losses": {}},
            }
            for number, epoch in epochs.items()
        ]
        storage.append_lines(self.folder / "epochs.jsonl", lines)
        complete = {
            number: epoch["metrics"]
            for number, epoch in epochs.items()
            if all(math.isfinite(epoch["metrics"].get(name, math.nan)) for name in choosing)
        }
        if not complete:
            return failure("diverged", f"{next(iter(choosing))} was never a finite number")
        best = max(complete, key=lambda number: _score(complete[number], complete, choosing))
        last = {name: value for epoch in epochs.values() for name, value in epoch["metrics"].items()}
        times = [epoch["step_ms"] for epoch in epochs.values() if epoch["step_ms"]]
        return {
            "status": "finished",
            "reason": None,
            "best_epoch": best,
            "validation": {name: complete[best][name] for name in choosing},
            # A test that the script makes once, at its end, is of no epoch in particular.
            "test": {name: epochs[best]["metrics"].get(name, last[name]) for name in shown},
            "step_ms": statistics.median(times) if times else None,
        }

    def _crashed(self, code: int) -> dict[str, Any]:
        if code < 0:
            return failure("crashed", how_it_ended(code))
        try:
            with (self.folder / "log.txt").open("rb") as file:
                file.seek(max(0, storage.size(self.folder / "log.txt") - TAIL))
                said = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            said = []
        errors = [line for line in said if line[:1].isalpha() and "Error" in line.partition(":")[0]]
        reason = (errors or said or [f"it ended with exit code {code}"])[-1]
        diverged = reason.startswith(("manyloss.errors.NotFiniteError", "NotFiniteError"))
        return failure("diverged" if diverged else "crashed", reason.removeprefix("manyloss.errors.")[:500])


def _score(
    values: Mapping[str, float], epochs: Mapping[int, Mapping[str, float]], choosing: Mapping[str, bool]
) -> float:
    """Mean over the metrics of the signed value, each in units of its size in the first epoch."""
    first = next(iter(epochs.values()))
    return sum(
        (1 if higher else -1) * values[name] / (abs(first[name]) or 1.0) for name, higher in choosing.items()
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    if _wait(process, 10.0) is None:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
