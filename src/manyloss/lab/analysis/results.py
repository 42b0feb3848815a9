"""Results: a run folder read back. Nothing here writes, trains or computes statistics.

``study.json`` says what was planned; every ``trials/<arm>/seed-<k>/`` says what became of one trial.
A folder without a readable plan is an error. A trial that is missing, unfinished, failed or damaged is
not: it is a trial with a status and a reason, so that the others can still be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from manyloss.lab import checks
from manyloss.lab.runs.storage import trial_folder

FORMAT = 1

Status = Literal["finished", "diverged", "crashed", "unfinished", "missing", "damaged"]
_ENDED: dict[str, Status] = {"finished": "finished", "diverged": "diverged", "crashed": "crashed"}


@dataclass(frozen=True)
class MetricColumn:
    """One metric of the study: its full name, its task, and which direction is better."""

    name: str
    task: str
    higher_is_better: bool
    derived: bool = False


@dataclass(frozen=True)
class EpochRecord:
    """What was written after one epoch; values are by loss or metric name."""

    epoch: int
    train: Mapping[str, float]
    validation_metrics: Mapping[str, float]
    validation_losses: Mapping[str, float]
    step_ms: float | None


@dataclass(frozen=True)
class TrialRecord:
    """One (arm, seed): how it ended and what it measured."""

    arm: str
    seed: int
    folder: Path
    status: Status
    reason: str | None = None
    best_epoch: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    step_ms: float | None = None
    seconds: float | None = None
    cosine_std: Mapping[str, float] = field(default_factory=dict)
    #: Short texts by column, and sentences, from the problem's final evaluation; warnings with their counts.
    words: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)
    #: What else the final evaluation kept, such as the accuracies of an attacked model by radius.
    record: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[EpochRecord, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """One study: its plan and its trials, in the order of the plan."""

    folder: Path
    problem: str
    command: tuple[str, ...]
    created: str
    arms: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    epochs: int
    metrics: tuple[MetricColumn, ...]
    losses: tuple[str, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    trials: tuple[TrialRecord, ...]
    summaries: Mapping[str, str] = field(default_factory=dict)

    def of(self, arm: str) -> tuple[TrialRecord, ...]:
        """The trials of one arm, by seed."""
        return tuple(trial for trial in self.trials if trial.arm == arm)

    def finished(self, arm: str) -> tuple[TrialRecord, ...]:
        """The finished trials of one arm, by seed."""
        return tuple(trial for trial in self.of(arm) if trial.status == "finished")


@dataclass(frozen=True)
class StepTrace:
    """What one trial recorded during training, at S recorded steps, for all T losses of the study.

    What was not measured is NaN: an absent loss, a step without cosines.
    """

    steps: NDArray[np.int64]  # [S]
    losses: NDArray[np.float64]  # [S, T]
    weights: NDArray[np.float64]  # [S, T]
    norms: NDArray[np.float64]  # [S, T]
    cosines: NDArray[np.float32]  # [S, pairs]


def pairs_of(losses: Sequence[str]) -> list[tuple[int, int]]:
    """The index pairs (i < j) of the losses, in the order of `StepTrace.cosines`."""
    return [(i, j) for i in range(len(losses)) for j in range(i + 1, len(losses))]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        LabError: the folder is not there, is no run folder, or its ``study.json`` is damaged.

    """
    folder = Path(folder)
    if not folder.is_dir():
        raise checks.no_run_folder(folder)
    path = folder / "study.json"
    if not path.is_file():
        raise checks.not_a_run_folder(folder)
    try:
        study = _json(path)
        if not isinstance(study, dict):
            raise TypeError(f"a JSON object is expected, found {type(study).__name__}")
        if study.get("format", FORMAT) != FORMAT:
            raise checks.run_of_other_format(path, study["format"], FORMAT)
        arms = tuple(str(arm) for arm in study["arms"])
        seeds = tuple(int(seed) for seed in study["seeds"])
        return RunRecord(
            folder=folder,
            problem=str(study["problem"]),
            command=tuple(str(word) for word in study.get("command", ())),
            created=str(study.get("created", "")),
            arms=arms,
            baseline=str(study.get("baseline", "equal")),
            seeds=seeds,
            epochs=int(study["epochs"]),
            metrics=tuple(
                MetricColumn(
                    name=str(name),
                    task=str(about.get("task", name)),
                    higher_is_better=bool(about["higher_is_better"]),
                    derived=bool(about.get("derived", False)),
                )
                for name, about in study["metrics"].items()
            ),
            losses=tuple(str(name) for name in study["losses"]),
            settings=dict(study.get("settings", {})),
            environment=dict(study.get("environment", {})),
            summaries={str(arm): str(text) for arm, text in study.get("summaries", {}).items()},
            trials=tuple(_read_trial(folder, arm, seed) for arm in arms for seed in seeds),
        )
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise checks.damaged(path, _said(error)) from error


def read_steps(trial: TrialRecord, losses: Sequence[str]) -> StepTrace | None:
    """The step records of one trial, or None when it has none that can be read."""
    path = trial.folder / "steps.jsonl"
    if not path.is_file():
        return None
    position = {name: index for index, name in enumerate(losses)}
    count = len(losses)
    upper = np.triu_indices(count, k=1)
    steps: list[int] = []
    rows: dict[str, list[NDArray[np.float64]]] = {"losses": [], "weights": [], "norms": []}
    cosines: list[NDArray[np.float32]] = []
    try:
        for record in _json_lines(path):
            step = int(record["step"])
            values = {kind: _row(record.get(kind), position) for kind in rows}
            square = _square(record.get("cosines"), record.get("names", losses), position)
            steps.append(step)
            for kind, row in values.items():
                rows[kind].append(row)
            cosines.append(square[upper].astype(np.float32))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        if not steps:
            return None
    if not steps:
        return None
    return StepTrace(
        steps=np.asarray(steps, dtype=np.int64),
        losses=np.stack(rows["losses"]),
        weights=np.stack(rows["weights"]),
        norms=np.stack(rows["norms"]),
        cosines=np.stack(cosines),
    )


def _read_trial(folder: Path, arm: str, seed: int) -> TrialRecord:
    path = trial_folder(folder, arm, seed)
    if not path.is_dir():
        return TrialRecord(arm, seed, path, "missing", "not started yet")
    reading = path
    try:
        reading = path / "settings.json"
        settings = _json(reading) if reading.is_file() else {}
        reading = path / "epochs.jsonl"
        epochs = tuple(_epoch(record) for record in _json_lines(reading)) if reading.is_file() else ()
        reading = path / "result.json"
        if not reading.is_file():
            reason = f"stopped after epoch {epochs[-1].epoch}" if epochs else "no epoch is finished yet"
            return TrialRecord(arm, seed, path, "unfinished", reason, epochs=epochs, settings=settings)
        result = _json(reading)
        said = str(result["status"])
        if said not in _ENDED:
            raise ValueError(f"status {said!r} is not one of {', '.join(_ENDED)}")
        return TrialRecord(
            arm=arm,
            seed=seed,
            folder=path,
            status=_ENDED[said],
            reason=None if result.get("reason") is None else str(result["reason"]),
            best_epoch=None if result.get("best_epoch") is None else int(result["best_epoch"]),
            validation=_numbers(result.get("validation")),
            test=_numbers(result.get("test")),
            step_ms=_number_or_none(result.get("step_ms")),
            seconds=_number_or_none(result.get("seconds")),
            cosine_std=_numbers(result.get("cosine_std")),
            words={str(name): str(text) for name, text in (result.get("words") or {}).items()},
            remarks=tuple(str(text) for text in result.get("remarks") or ()),
            warnings={str(text): int(count) for text, count in (result.get("warnings") or {}).items()},
            record=dict(result.get("record") or {}),
            epochs=epochs,
            settings=settings,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = checks.cannot_read(reading, error) if isinstance(error, OSError) else None
        return TrialRecord(arm, seed, path, "damaged", str(found or checks.damaged(reading, _said(error))))


def _epoch(record: Mapping[str, Any]) -> EpochRecord:
    validation = record.get("validation") or {}
    return EpochRecord(
        epoch=int(record["epoch"]),
        train=_numbers(record.get("train")),
        validation_metrics=_numbers(validation.get("metrics")),
        validation_losses=_numbers(validation.get("losses")),
        step_ms=_number_or_none(record.get("step_ms")),
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_lines(path: Path) -> Iterator[Any]:
    """One value per line. A last line cut short by a kill is left out; anywhere else it is an error."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise ValueError(f"line {number}: {error}") from error


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    """By name; null is what JSON has for a number that is not finite."""
    return {str(name): math.nan if v is None else float(v) for name, v in (values or {}).items()}


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _row(values: Mapping[str, Any] | None, position: Mapping[str, int]) -> NDArray[np.float64]:
    row = np.full(len(position), np.nan)
    for name, value in (values or {}).items():
        if name in position and value is not None:
            row[position[name]] = float(value)
    return row


def _square(
    values: Sequence[Sequence[Any]] | None, names: Iterable[str], position: Mapping[str, int]
) -> NDArray[np.float64]:
    square = np.full((len(position), len(position)), np.nan)
    if values is None:
        return square
    present = np.asarray([position[name] for name in names])
    square[np.ix_(present, present)] = np.asarray(values, dtype=np.float64)
    return square


def _said(error: Exception) -> Exception:
    """A missing key reads as one."""
    return ValueError(f"{error.args[0]!r} is missing") if isinstance(error, KeyError) else error
