"""What stands beside a table: the front of the sum, single-task training, and what the tuning cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from manyloss.lab import checks
from manyloss.lab.analysis.pareto import BesideTheFront, Pareto, Resampled, delta_m, pareto
from manyloss.lab.analysis.results import RunRecord, read_run
from manyloss.lab.analysis.sentences import percent
from manyloss.lab.analysis.statistics import Interval
from manyloss.lab.analysis.tuning import TunedRow, finalists_in
from manyloss.lab.printing import printable
from manyloss.lab.runs import storage
from manyloss.lab.runs.progress import duration

#: The arms that are sums of the losses.
SUMS = ("equal", "static")


def read_part(run: RunRecord, part: str) -> RunRecord | None:
    """A study beside this one, in a folder of its own; None where there is none."""
    folder = run.folder / part
    return read_run(folder) if (folder / "study.json").is_file() else None


# -- the front of the sum -----------------------------------------------------------------------------------


def pareto_of(run: RunRecord, at_least: float = 0.0) -> Pareto | None:
    """The trade-off between the metrics that were chosen with ``--pareto``; None where none were."""
    sweep = read_part(run, "sweep")
    metrics = _chosen_metrics(run.folder)
    directions = {metric.name: metric.higher_is_better for metric in run.metrics}
    if sweep is None or not set(metrics) <= set(directions) or len(metrics) < 2:
        return None
    rows = {row: _values(run, row, metrics) for row in run.arms}
    is_a_sum = {row: row == run.tuned_sum or row.partition(":")[0] in SUMS for row in run.arms}
    base = list(rows.get(run.baseline, {}).values())
    if not base:
        return None
    middle = [math.fsum(values[k] for values in base) / len(base) for k in range(len(metrics))]
    return pareto(
        {
            **{row: values for row, values in rows.items() if is_a_sum[row]},
            **{arm: _values(sweep, arm, metrics) for arm in sweep.arms},
        },
        {row: values for row, values in rows.items() if not is_a_sum[row]},
        middle,
        metrics,
        [directions[name] for name in metrics],
        at_least=at_least,
    )


def _chosen_metrics(folder: Path) -> list[str]:
    path = folder / "pareto.json"
    try:
        return [printable(name) for name in (storage.read_json(path) or {}).get("metrics", [])]
    except TypeError as error:
        raise checks.damaged(path, error) from error


def _values(run: RunRecord, row: str, metrics: Sequence[str]) -> dict[int, list[float]]:
    return {trial.seed: [trial.test.get(name, math.nan) for name in metrics] for trial in run.finished(row)}


def front_words(found: Pareto) -> list[str]:
    """One sentence per method, after the answer for all of them."""
    beyond = [each.point.name for each in found.methods if each.where == "beyond"]
    if any(each.where == "untested" for each in found.methods):
        answer = "Too few seeds to say whether a method leaves the front of the sum."
    elif beyond:
        answer = f"Beyond the front of the sum: {', '.join(beyond)}."
    else:
        answer = "No method leaves the front of the sum." if found.methods else ""
    return [*([answer] if answer else []), *(_beside_words(each) for each in found.methods)]


def _beside_words(each: BesideTheFront) -> str:
    distance = each.distance
    side = "beyond" if distance.value > 0 else "behind"
    text = f"{each.point.name}: {percent(abs(distance.value), signed=False)} {side} the front of the sum"
    if distance.low is not None and distance.high is not None:
        text += f", 95% interval {percent(distance.low)} to {percent(distance.high)}"
    said = {"on": ": on it, within noise", "untested": ": not tested"}.get(each.where, "")
    return (
        f"{text}{said}; it adds {percent(each.gain.value, signed=False)} of hypervolume{_range(each.gain)}."
    )


def _range(spread: Resampled) -> str:
    if spread.low is None or spread.high is None:
        return ""
    return f" ({percent(spread.low, signed=False)} to {percent(spread.high, signed=False)})"


# -- single-task training -----------------------------------------------------------------------------------


def single_task_of(run: RunRecord) -> dict[str, Interval]:
    """Row -> its change against single-task training, over the metrics and seeds that both have."""
    single = read_part(run, "single")
    if single is None:
        return {}
    alone: dict[int, dict[str, float]] = {}
    for trial in single.trials:
        if trial.status == "finished":
            alone.setdefault(trial.seed, {}).update(trial.test)
    directions = {metric.name: metric.higher_is_better for metric in run.metrics if not metric.derived}
    found = {
        row: delta_m({trial.seed: trial.test for trial in run.finished(row)}, alone, directions)
        for row in run.arms
    }
    return {row: interval for row, interval in found.items() if interval is not None}


# -- what the tuning cost -----------------------------------------------------------------------------------


def cost_text(row: TunedRow) -> str:
    """``20 in 3 min 10 s``: settings that were tried, and what they took."""
    return f"{row.trials} in {duration(row.seconds)}" if row.trials else "–"


def tuning_words(run: RunRecord) -> list[str]:
    """What was tried altogether, and the chosen setting of every row."""
    if not run.tuning:
        return []
    rows = [run.tuning[row] for row in run.arms if row in run.tuning]
    counts = sorted({row.trials for row in rows if row.trials})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    untuned = f"untuned {run.baseline}"
    total = duration(sum(row.seconds for row in rows))
    count = sum(row.trials + len(row.finalists) * row.more_seeds for row in rows)
    finalists, more_seeds = finalists_in(rows)
    between = f" (the best {finalists} of each with {more_seeds} seeds more)" if finalists else ""
    words = [
        f"Tuned with {each} settings per row, chosen on validation with a seed of their own{between}: "
        f"{count} trials, {total} of trials' time."
    ]
    for row in rows:
        stopped = ", ".join(f"{count} {how}" for how, count in sorted(row.ended.items()) if how != "finished")
        on_validation = "" if row.best is None else f" ({percent(row.best)} on validation against {untuned})"
        more = [stopped] if stopped else []
        if row.at_the_end:
            more.append("the learning rate is at the end of what was tried, and a better one may lie beyond")
        if not row.trials:
            more.append("the setting of the method whose average weights it holds")
        words.append("; ".join([f"{row.label}: {row.words}{on_validation}", *more]) + ".")
    return words
