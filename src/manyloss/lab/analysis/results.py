"""Results: a run folder read back. Nothing here writes, trains or computes statistics.

``study.json`` says what was planned; every ``trials/<arm>/seed-<k>/`` says what became of one trial.
A folder without a readable plan is an error. A trial that is missing, unfinished, failed or damaged is
not: it is a trial with a status and a reason, so that the others can still be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from manyloss.diagnostics.running import pair_name
from manyloss.lab import checks
from manyloss.lab.analysis.tuning import TunedRow, read_tuning
from manyloss.lab.printing import printable
from manyloss.lab.runs import storage
from manyloss.lab.runs.storage import trial_folder
from manyloss.lab.tuning import TUNED_SUM

FORMAT = 1

Status = Literal["finished", "diverged", "crashed", "pruned", "unfinished", "missing", "damaged"]
_ENDED: dict[str, Status] = {
    "finished": "finished",
    "diverged": "diverged",
    "crashed": "crashed",
    "pruned": "pruned",
}
#: What a file with other content than ours may raise when it is read.
_ODD = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


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
    #: What `Problem.after_epoch` found.
    along: Mapping[str, float] = field(default_factory=dict)


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
    #: For metrics that are a share of right decisions: of how many, on the test split.
    decisions: Mapping[str, float] = field(default_factory=dict)
    #: Pair of losses -> sample standard deviation of their gradients' cosine over the recorded steps.
    cosine_std: Mapping[str, float] = field(default_factory=dict)
    cosine_std_first_epoch: Mapping[str, float] = field(default_factory=dict)
    mean_weights: Mapping[str, float] = field(default_factory=dict)
    #: The share of the gradients at the features that GradDrop passes, or would pass: "first epoch", "last
    #: epoch" and "change".
    passed: Mapping[str, float] = field(default_factory=dict)
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
    #: Row -> how its setting was found; empty where nothing was tuned.
    tuning: Mapping[str, TunedRow] = field(default_factory=dict)
    #: Row -> a step's time over the baseline's, measured in turns in one process.
    step_times: Mapping[str, float] = field(default_factory=dict)
    #: Metric -> the metric or the option of the arms that it is drawn against.
    drawn_against: Mapping[str, str] = field(default_factory=dict)

    @property
    def tuned_sum(self) -> str | None:
        """The row of the tuned sum, the second baseline of a tuned comparison."""
        return TUNED_SUM if TUNED_SUM in self.tuning else None

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


def pair_names(losses: Sequence[str]) -> list[str]:
    """How each of `pairs_of` is spelled, here and in every record: the recorder's way, "a|b"."""
    return [pair_name(losses[i], losses[j]) for i, j in pairs_of(losses)]


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
        study = storage.read_json(path) or {}
        if study.get("format", FORMAT) != FORMAT:
            raise checks.run_of_other_format(path, study["format"], FORMAT)
        # A tuned row is called by its label; its folder, by its settings.
        rows = study.get("labels") or {arm: arm for arm in study["arms"]}
        names = {printable(arm): printable(label) for label, arm in rows.items()}
        seeds = tuple(_whole(seed, 2**32) for seed in study["seeds"])
        baseline = printable(study.get("baseline", "equal"))
        summaries = {
            names.get(printable(arm), printable(arm)): printable(text)
            for arm, text in study.get("summaries", {}).items()
        }
        return RunRecord(
            folder=folder,
            problem=printable(study["problem"]),
            command=tuple(printable(word) for word in study.get("command", ())),
            created=printable(study.get("created", "")),
            arms=tuple(printable(label) for label in rows),
            baseline=names.get(baseline, baseline),
            seeds=seeds,
            epochs=int(study["epochs"]),
            metrics=tuple(
                MetricColumn(
                    name=printable(name),
                    task=printable(about.get("task", name)),
                    higher_is_better=bool(about["higher_is_better"]),
                    derived=bool(about.get("derived", False)),
                )
                for name, about in study["metrics"].items()
            ),
            losses=tuple(printable(name) for name in study["losses"]),
            settings=dict(study.get("settings", {})),
            environment=dict(study.get("environment", {})),
            summaries=summaries,
            trials=tuple(
                replace(read_trial(folder, str(arm), seed), arm=printable(label))
                for label, arm in rows.items()
                for seed in seeds
            ),
            tuning=read_tuning(folder / "tuning") if study.get("labels") else {},
            step_times=_step_times(folder, names),
            drawn_against={
                printable(metric): printable(other)
                for metric, other in study.get("drawn_against", {}).items()
            },
        )
    except _ODD as error:
        raise checks.damaged(path, _said(error)) from error


def _step_times(folder: Path, names: Mapping[str, str]) -> dict[str, float]:
    """What `runs.timing` measured; nothing where it did not."""
    path = folder / "step_time.json"
    try:
        measured = (storage.read_json(path) or {}).get("ratios", {})
        return {names.get(arm, arm): float(ratio) for arm, ratio in measured.items() if ratio is not None}
    except _ODD as error:
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
        for record in storage.read_lines(path):
            step = _whole(record["step"], 2**53)
            values = {kind: _row(record.get(kind), position) for kind in rows}
            square = _square(record.get("cosines"), record.get("names", losses), position)
            steps.append(step)
            for kind, row in values.items():
                rows[kind].append(row)
            cosines.append(square[upper].astype(np.float32))
    except (checks.LabError, *_ODD):
        pass  # what was read up to there
    if not steps:
        return None
    return StepTrace(
        steps=np.asarray(steps, dtype=np.int64),
        losses=np.stack(rows["losses"]),
        weights=np.stack(rows["weights"]),
        norms=np.stack(rows["norms"]),
        cosines=np.stack(cosines),
    )


def read_trial(folder: Path, arm: str, seed: int) -> TrialRecord:
    """One trial of a run folder; what cannot be read is a trial with the status "damaged"."""
    path = trial_folder(folder, arm, seed)
    if not path.is_dir():
        return TrialRecord(arm, seed, path, "missing", "not started yet")
    reading = path
    try:
        reading = path / "settings.json"
        settings = storage.read_json(reading) or {}
        reading = path / "epochs.jsonl"
        epochs = tuple(_epoch(record) for record in storage.read_lines(reading))
        reading = path / "result.json"
        result = storage.read_result(path)
        if result is None:
            reason = f"stopped after epoch {epochs[-1].epoch}" if epochs else "no epoch is finished yet"
            return TrialRecord(arm, seed, path, "unfinished", reason, epochs=epochs, settings=settings)
        return TrialRecord(
            arm=arm,
            seed=seed,
            folder=path,
            status=_ENDED[result["status"]],
            reason=result["reason"],
            best_epoch=None if result.get("best_epoch") is None else int(result["best_epoch"]),
            validation=_numbers(result.get("validation")),
            test=_numbers(result.get("test")),
            step_ms=_number_or_none(result.get("step_ms")),
            seconds=_number_or_none(result.get("seconds")),
            decisions=_numbers(result.get("decisions")),
            cosine_std=_numbers(result.get("cosine_std")),
            cosine_std_first_epoch=_numbers(result.get("cosine_std_first_epoch")),
            mean_weights=_numbers(result.get("mean_weights")),
            passed=_numbers(result.get("passed")),
            words={printable(name): printable(text) for name, text in (result.get("words") or {}).items()},
            remarks=tuple(printable(text) for text in result.get("remarks") or ()),
            warnings={printable(text): int(count) for text, count in (result.get("warnings") or {}).items()},
            record=dict(result.get("record") or {}),
            epochs=epochs,
            settings=settings,
        )
    except checks.LabError as error:
        return TrialRecord(arm, seed, path, "damaged", str(error))
    except _ODD as error:
        return TrialRecord(arm, seed, path, "damaged", str(checks.damaged(reading, _said(error))))


def _epoch(record: Mapping[str, Any]) -> EpochRecord:
    validation = record.get("validation") or {}
    return EpochRecord(
        epoch=int(record["epoch"]),
        train=_numbers(record.get("train")),
        validation_metrics=_numbers(validation.get("metrics")),
        validation_losses=_numbers(validation.get("losses")),
        step_ms=_number_or_none(record.get("step_ms")),
        along=_numbers(record.get("along")),
    )


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    """By name; null is what JSON has for a number that is not finite."""
    return {printable(name): math.nan if v is None else float(v) for name, v in (values or {}).items()}


def _whole(value: Any, below: int) -> int:
    number = int(value)
    if not 0 <= number < below:
        raise ValueError(f"a number from 0 to {below - 1} should be there")
    return number


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
