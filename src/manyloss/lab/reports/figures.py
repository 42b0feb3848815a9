"""Figures: what the report draws, reduced from the records to as many points as an eye can use.

Everything here is plain data (lists of numbers); `report` puts it on a page, and the page draws it.
Curves and traces are means over the finished seeds of an arm, or over all its seeds if none finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from manyloss import catalog
from manyloss.lab.analysis.results import (
    EpochRecord,
    RunRecord,
    StepTrace,
    TrialRecord,
    pair_names,
    pairs_of,
    read_steps,
)
from manyloss.lab.analysis.statistics import mean_interval
from manyloss.lab.analysis.table import Table

#: Points of one curve or trace, at most.
POINTS = 200
#: Numbers in one family of figures, at most: with more curves, each gets fewer points.
NUMBERS = 240_000
#: Up to this many losses are drawn as lines and with all their pairs; more become heat maps.
LINES = 8
#: A quotient of two values of one panel from which on its axis is logarithmic.
FAR_APART = 1000
#: Pairs shown when there are more than `LINES` losses: those with the strongest conflict.
PAIRS = 15

Numbers = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One arm's mean over seeds by epoch, with its 95 % interval where there are two seeds or more."""

    arm: int
    x: Sequence[int]
    y: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Curves:
    """One panel of learning curves."""

    title: str
    note: str
    lines: tuple[Line, ...]

    @property
    def logarithmic(self) -> bool:
        """Whether positive values are so far apart that a linear axis would show the largest only."""
        values = [value for line in self.lines for value in line.y if value is not None]
        return min(values) > 0 and max(values) > FAR_APART * min(values)


@dataclass(frozen=True)
class Rows:
    """One row per arm: a middle, an interval, and a point per seed."""

    arm: int
    mid: float
    low: float | None
    high: float | None
    points: Numbers


@dataclass(frozen=True)
class Traces:
    """Values by step of several rows (losses, pairs or arms): lines, or a heat map."""

    arm: int | None
    title: str
    x: Sequence[int]
    rows: tuple[str, ...]
    values: tuple[Numbers, ...]  # one per row


@dataclass(frozen=True)
class ConflictSummary:
    """One arm's cosines over all pairs and recorded steps, in numbers."""

    arm: str
    mean: float
    negative: float  # fraction of them below 0
    lowest_pair: str
    lowest: float


@dataclass
class Figures:
    """All figures of a report."""

    changes: list[Rows] = field(default_factory=list)
    changes_of_sum: list[Rows] = field(default_factory=list)
    times: list[Rows] = field(default_factory=list)
    validation: list[Curves] = field(default_factory=list)
    train: list[Curves] = field(default_factory=list)
    along: list[Curves] = field(default_factory=list)
    weights: list[Traces] = field(default_factory=list)
    constant_weights: list[tuple[str, str]] = field(default_factory=list)
    norms: list[Traces] = field(default_factory=list)
    conflict: list[Traces] = field(default_factory=list)
    conflict_summary: list[ConflictSummary] = field(default_factory=list)
    pairs_left_out: int = 0


def make_figures(run: RunRecord, table: Table) -> Figures:
    """Read the traces of a run and reduce everything to what is drawn."""
    figures = Figures()
    _add_rows(figures, run, table)
    figures.validation = _curves(
        run,
        [metric.name for metric in run.metrics],
        lambda record: record.validation_metrics,
        [
            f"validation, {'higher' if metric.higher_is_better else 'lower'} is better"
            for metric in run.metrics
        ],
        mean_of=[metric.name for metric in run.metrics if not metric.derived]
        if len({metric.higher_is_better for metric in run.metrics}) == 1
        else (),
        mean_title="mean over the metrics",
    )
    figures.train = _curves(
        run,
        list(run.losses),
        lambda record: record.train,
        ["training loss, lower is better"] * len(run.losses),
        mean_of=run.losses,
        mean_title="mean over the losses",
    )
    along = dict.fromkeys(name for trial in run.trials for record in trial.epochs for name in record.along)
    figures.along = _curves(
        run, list(along), lambda record: record.along, [""] * len(along), mean_of=(), mean_title=""
    )
    _add_traces(figures, run)
    return figures


def drawn_trials(run: RunRecord, arm: str) -> tuple[TrialRecord, ...]:
    """The trials that an arm's curves average over."""
    return run.finished(arm) or tuple(trial for trial in run.of(arm) if trial.epochs)


def _add_rows(figures: Figures, run: RunRecord, table: Table) -> None:
    base = [trial.step_ms for trial in run.finished(run.baseline) if trial.step_ms]
    for index, row in enumerate(table.rows):
        compared = row.comparison
        for drawn, against in ((figures.changes, compared), (figures.changes_of_sum, row.against_sum)):
            if against is not None and (change := against.change) is not None:
                points = list(against.changes.values())
                drawn.append(Rows(index, change.mean, change.low, change.high, points))
        if compared.step_time is not None and base:
            times = [trial.step_ms for trial in run.finished(row.arm) if trial.step_ms is not None]
            # Measured in turns, a ratio is not the trials' own: they have no ticks.
            points = [] if run.step_times else [time / median(base) for time in times]
            figures.times.append(Rows(index, compared.step_time, None, None, points))


# -- by epoch ----------------------------------------------------------------------------------------------


def _curves(
    run: RunRecord,
    names: Sequence[str],
    read: Callable[[EpochRecord], object],
    notes: Sequence[str],
    *,
    mean_of: Sequence[str],
    mean_title: str,
) -> list[Curves]:
    """One panel per name; with more than `LINES`, first a panel of their mean."""
    points = max(min(POINTS, NUMBERS // max(4 * len(names) * len(run.arms), 1)), 20)
    tables = {
        (arm, trial.seed): {
            record.epoch: values for record in trial.epochs if isinstance(values := read(record), dict)
        }
        for arm in run.arms
        for trial in drawn_trials(run, arm)
    }
    panels = []
    wanted: list[tuple[str, str, tuple[str, ...]]] = [
        (name, note, (name,)) for name, note in zip(names, notes, strict=True)
    ]
    if len(names) > LINES and mean_of:
        wanted.insert(0, (mean_title, notes[0], tuple(mean_of)))
    for title, note, parts in wanted:
        lines = []
        for index, arm in enumerate(run.arms):
            trials = drawn_trials(run, arm)
            columns = [_column(tables[(arm, trial.seed)], parts) for trial in trials]
            line = _line(index, columns, points)
            if line is not None:
                lines.append(line)
        if lines:
            panels.append(Curves(title, note, tuple(lines)))
    return panels


def _column(records: dict[int, dict[str, float]], parts: tuple[str, ...]) -> dict[int, float]:
    """Epoch -> the mean of these values, where all that the trial has are finite."""
    column = {}
    for epoch, values in records.items():
        present = [values[name] for name in parts if name in values]
        if present and all(math.isfinite(value) for value in present):
            column[epoch] = sum(present) / len(present)
    return column


def _line(arm: int, columns: Sequence[dict[int, float]], points: int) -> Line | None:
    epochs = sorted({epoch for column in columns for epoch in column})
    if not epochs:
        return None
    kept = sorted({epochs[round(i)] for i in np.linspace(0, len(epochs) - 1, min(points, len(epochs)))})
    intervals = [mean_interval([column[epoch] for column in columns if epoch in column]) for epoch in kept]
    return Line(
        arm=arm,
        x=kept,
        y=[interval.mean for interval in intervals],
        low=[interval.low for interval in intervals],
        high=[interval.high for interval in intervals],
    )


# -- by step -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Binned:
    """One arm's means over seeds and over the steps of each bin."""

    arm: int
    x: NDArray[np.int64]  # [bins]
    weights: NDArray[np.float64]  # [bins, T]
    norms: NDArray[np.float64]  # [bins, T]
    cosines: NDArray[np.float64]  # [bins, pairs]
    negative: float


def _add_traces(figures: Figures, run: RunRecord) -> None:
    points = max(min(POINTS, NUMBERS // max(len(run.losses) * len(run.arms), 1)), 20)
    binned = []
    for index, arm in enumerate(run.arms):
        traces = [
            trace for trial in drawn_trials(run, arm) if (trace := read_steps(trial, run.losses)) is not None
        ]
        if traces:
            binned.append(_bin(index, traces, points))
    for reduced in binned:
        arm = run.arms[reduced.arm]
        constant = _constant(reduced.weights, run.losses)
        if constant is not None:
            figures.constant_weights.append((arm, constant))
        elif np.isfinite(reduced.weights).any():
            figures.weights.append(_traces(reduced, _named_numbers(arm), run.losses, reduced.weights))
        if np.isfinite(reduced.norms).any():
            figures.norms.append(_traces(reduced, arm, run.losses, reduced.norms))
    _add_conflict(figures, run, [trace for trace in binned if np.isfinite(trace.cosines).any()])


def _bin(arm: int, traces: Sequence[StepTrace], points: int) -> _Binned:
    every = np.unique(np.concatenate([trace.steps for trace in traces]))
    edges = every[np.linspace(0, len(every) - 1, min(points, len(every))).round().astype(int)]
    edges = np.unique(edges)

    def mean(arrays: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
        total = np.zeros((len(edges), arrays[0].shape[1]))
        count = np.zeros_like(total)
        for trace, array in zip(traces, arrays, strict=True):
            # A step belongs to the last edge that is not behind it.
            place = np.searchsorted(edges, trace.steps, side="right") - 1
            there = np.isfinite(array)
            np.add.at(total, place, np.where(there, array, 0.0))
            np.add.at(count, place, there)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    cosines = [trace.cosines for trace in traces]
    measured = sum(int(np.isfinite(array).sum()) for array in cosines)
    negative = sum(int((array < 0).sum()) for array in cosines)
    return _Binned(
        arm=arm,
        x=edges,
        weights=mean([trace.weights for trace in traces]),
        norms=mean([trace.norms for trace in traces]),
        cosines=mean(cosines),
        negative=negative / measured if measured else math.nan,
    )


def _constant(weights: NDArray[np.float64], losses: Sequence[str]) -> str | None:
    """The weights in words if they never change, else None."""
    if not np.isfinite(weights).any():
        return None
    present = np.isfinite(weights)
    first = np.array(
        [
            column[there][0] if there.any() else np.nan
            for column, there in zip(weights.T, present.T, strict=True)
        ]
    )
    if not np.allclose(np.where(present, weights, first), first, rtol=1e-9, atol=0, equal_nan=True):
        return None
    values = first[np.isfinite(first)]
    if np.all(values == values[0]):
        return f"{values[0]:g} for every loss"
    named = [f"{value:.3g} for {name}" for name, value in zip(losses, first, strict=True)][:LINES]
    return ", ".join(named) + (", …" if len(losses) > LINES else "")


def _traces(trace: _Binned, title: str, rows: Sequence[str], values: NDArray[np.float64]) -> Traces:
    return Traces(trace.arm, title, trace.x.tolist(), tuple(rows), tuple(values.T.tolist()))


def _named_numbers(arm: str) -> str:
    """The arm, with what its numbers are where they are no weights."""
    info = catalog.methods().get(arm.partition(":")[0])
    return arm if info is None or info.numbers == "weights" else f"{arm}: {info.numbers}"


def _add_conflict(figures: Figures, run: RunRecord, traces: Sequence[_Binned]) -> None:
    """Heat maps of the cosines: one row per pair; with a single pair, one row per arm in one map."""
    pairs = pairs_of(run.losses)
    if not traces or not pairs:
        return
    names = pair_names(run.losses)
    for trace in traces:
        by_pair = _mean(trace.cosines)
        lowest = int(np.nanargmin(by_pair))
        figures.conflict_summary.append(
            ConflictSummary(
                arm=run.arms[trace.arm],
                mean=float(np.nanmean(by_pair)),
                negative=trace.negative,
                lowest_pair=names[lowest],
                lowest=float(by_pair[lowest]),
            )
        )
    if len(pairs) == 1:
        x = max((trace.x for trace in traces), key=lambda steps: (int(steps[-1]), len(steps)))
        values = []
        for trace in traces:
            row = np.full(len(x), np.nan)
            place = np.searchsorted(x, trace.x, side="right") - 1
            row[place] = trace.cosines[:, 0]
            values.append(row.tolist())
        arms = tuple(run.arms[trace.arm] for trace in traces)
        figures.conflict.append(Traces(None, names[0], x.tolist(), arms, tuple(values)))
        return
    shown = list(range(len(pairs)))
    if len(run.losses) > LINES:
        strength = _mean(np.stack([_mean(trace.cosines) for trace in traces]))
        shown = np.argsort(np.where(np.isfinite(strength), strength, np.inf), kind="stable")[:PAIRS].tolist()
        figures.pairs_left_out = len(pairs) - len(shown)
    for trace in traces:
        rows = [names[index] for index in shown]
        values = [trace.cosines[:, index].tolist() for index in shown]
        if figures.pairs_left_out:
            rows.insert(0, f"mean of all {len(pairs)} pairs")
            values.insert(0, _mean(trace.cosines.T).tolist())
        figures.conflict.append(
            Traces(trace.arm, run.arms[trace.arm], trace.x.tolist(), tuple(rows), tuple(values))
        )


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is finite; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    total = np.where(there, values, 0.0).sum(axis=0)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean
