"""A trial that is a user's script: the same folder and the same result, from what the script logged."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyloss import __version__
from manyloss.lab import checks
from manyloss.lab.arms import choose_arm
from manyloss.lab.pruning import Pruning
from manyloss.lab.runs import storage
from manyloss.lab.runs.executors.words import how_it_ended
from manyloss.lab.runs.machines import environment
from manyloss.lab.runs.trial import Trial, TrialSpec, sign_of_life, thread_variables
from manyloss.lab.scripts import VARIABLE, ScriptCall, choosing_metrics, shown_metrics
from manyloss.lab.training import Progress, failure, silent

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
#: How launchers tell that a process was ended by a signal.
_BY_SIGNAL = re.compile(r"Signal (\d+) \(SIG|died with <Signals\.SIG\w+: (\d+)>")


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
        #: Bytes in its log that an earlier attempt wrote.
        self.said_before = 0

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
            for passing in ("alive.json", "reason.json"):
                (self.folder / passing).unlink(missing_ok=True)
        return result

    def _run(self, progress: Progress) -> dict[str, Any]:
        started = time.monotonic()
        try:
            code = self.execute(progress)
        except checks.LabError as error:
            return failure("crashed", str(error))
        behind = self._behind()
        if behind is not None:
            result = failure("pruned", behind)
        else:
            result = self.result() if code == 0 else self.why(code)
        if warned := [text for epoch in self._epochs_so_far().values() for text in epoch["warnings"]]:
            result["warnings"] = dict.fromkeys(warned, 1)
        return {**result, "seconds": time.monotonic() - started}

    def execute(
        self,
        progress: Progress = silent,
        variables: Mapping[str, str] | None = None,
        output: int | None = None,
    ) -> int:
        """Run the script from the kept text, and return its exit code.

        Args:
            progress: called with the last epoch and its metrics.
            variables: more of its environment.
            output: the file that gets what it prints; this process's own when None.

        Raises:
            LabError: what ``--launch`` says cannot be run.

        """
        spec = self.spec
        if spec.source.kept is None:
            spec = replace(spec, source=spec.source.keep(spec.root / "source"))
        storage.write_bytes(self.folder / "spec.json", spec.to_json().encode())
        (self.folder / "reason.json").unlink(missing_ok=True)
        self.said_before = storage.size(self.folder / "log.txt")
        command = [*_launcher(self.call.launch), str(BOOTSTRAP), *self.call.arguments]
        environ = {
            **os.environ,
            **thread_variables(self.spec.threads),
            VARIABLE: str((self.folder / "spec.json").absolute()),
            **(variables or {}),
        }
        try:
            process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal is the study's, and a launcher ends with its ranks.
                start_new_session=True,
            )
        except OSError as error:
            raise checks.LabError(
                f"{command[0]!r} cannot be run: {error.strerror or error}. Look at --launch."
            ) from error
        try:
            seen = -1
            while (code := _wait(process, 0.5)) is None:
                length = storage.size(self.folder / "log.jsonl")
                if length != seen:
                    seen = length
                    epoch, values = self._latest()
                    sign_of_life(self.folder, 0.0, {"epoch": epoch, **values})
                    progress(float(epoch), values)
                    if self._behind() is not None:
                        break
        finally:
            _end(process)
        return process.wait() if code is None else code

    def _behind(self) -> str | None:
        """Why the script is stopped early; None: it goes on."""
        if self.spec.pruning is None:
            return None
        choosing = choosing_metrics(self.call.metrics)
        epochs = [epoch["metrics"] for epoch in self._epochs_so_far().values()]
        judged = [values for values in epochs if set(choosing) <= set(values)]
        return Pruning.from_dict(self.spec.pruning).behind(judged)

    # -- from the log ------------------------------------------------------------------------------------

    def _epochs(self) -> dict[int, dict[str, Any]]:
        """Epoch -> what was logged in it; of a value logged twice, the later one."""
        epochs: dict[int, dict[str, Any]] = {}
        process = None
        for record in storage.read_lines(self.folder / "log.jsonl"):
            if record.get("process") != process:
                # It went on from there, or began again: what an earlier one logged from there on is undone.
                process = record.get("process")
                epochs = {number: kept for number, kept in epochs.items() if number < int(record["epoch"])}
            kept = epochs.setdefault(
                int(record["epoch"]), {"metrics": {}, "step_ms": None, "losses": {}, "warnings": []}
            )
            kept["metrics"] |= {
                name: math.nan if value is None else float(value) for name, value in record["metrics"].items()
            }
            kept["step_ms"] = record.get("step_ms") or kept["step_ms"]
            kept["losses"] = record.get("losses") or kept["losses"]
            kept["warnings"] = record.get("warnings") or kept["warnings"]
        return dict(sorted(epochs.items()))

    def _epochs_so_far(self) -> dict[int, dict[str, Any]]:
        """Those of a script that may be writing a line just now: none then."""
        try:
            return self._epochs()
        except (checks.LabError, KeyError, TypeError, ValueError):
            return {}

    def _latest(self) -> tuple[int, dict[str, float]]:
        """The last epoch that was logged, with its metrics of the comparison."""
        epochs = self._epochs_so_far()
        last = max(epochs, default=0)
        values = epochs[last]["metrics"] if epochs else {}
        return last, {name: values[name] for name in self.call.metrics if name in values}

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
        # Where the test is made now and then, the chosen epoch is one in which it was.
        often = [name for name in shown if sum(name in epoch["metrics"] for epoch in epochs.values()) > 1]
        tested = {n: values for n, values in complete.items() if all(name in values for name in often)}
        complete = tested or complete
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

    def why(self, code: int, log: Path | None = None) -> dict[str, Any]:
        """Why it ended with this exit code: its own exception, a signal, or its last words in ``log``."""
        if code < 0:
            return failure("crashed", how_it_ended(code))
        words = storage.last_words(log or self.folder / "log.txt", self.said_before)
        # A launcher ends the other ranks by SIGTERM; any other signal came first, and their errors after it.
        signals = [int(one or other) for one, other in _BY_SIGNAL.findall(words)]
        if ended := [number for number in signals if number != signal.SIGTERM]:
            return failure("crashed", how_it_ended(-ended[0]))
        try:
            said = json.loads((self.folder / "reason.json").read_bytes())
            return failure(str(said["status"]), str(said["reason"])[:500])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it did not end by an exception
        lines = words.splitlines()
        errors = [line for line in lines if line[:1].isalpha() and "Error" in line.partition(":")[0]]
        reason = (errors or lines or [f"it ended with exit code {code}"])[-1]
        return failure("crashed", reason[:500])


def _score(
    values: Mapping[str, float], epochs: Mapping[int, Mapping[str, float]], choosing: Mapping[str, bool]
) -> float:
    """Mean over the metrics of the signed value, each in units of its size in the first epoch."""
    first = next(iter(epochs.values()))
    return sum(
        (1 if higher else -1) * values[name] / (abs(first[name]) or 1.0) for name, higher in choosing.items()
    )


def _launcher(launch: str) -> list[str]:
    """What goes in front; a program that is not on the path may be beside this Python (a venv's)."""
    words = shlex.split(launch) or [sys.executable]
    beside = Path(sys.executable).parent / words[0]
    return [str(beside), *words[1:]] if shutil.which(words[0]) is None and beside.is_file() else words


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and, behind a launcher, its ranks; nothing happens if it has ended."""
    if process.poll() is not None:
        return
    group = getattr(os, "killpg", None)
    for way in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(way) if group is None else group(process.pid, way)
        if _wait(process, 10.0) is not None:
            return


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
