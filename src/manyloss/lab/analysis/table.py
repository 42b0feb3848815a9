"""The table of a comparison: its rows, its words, and both on a terminal."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from manyloss.lab.analysis.beside import cost_text, front_words, pareto_of, single_task_of, tuning_words
from manyloss.lab.analysis.pareto import Pareto
from manyloss.lab.analysis.results import MetricColumn, RunRecord, TrialRecord, read_run
from manyloss.lab.analysis.statistics import (
    Comparison,
    Interval,
    Outcome,
    compare,
    explain,
    p_text,
    percent,
    percent_digits,
    verdict,
)
from manyloss.lab.analysis.tuning import TunedRow

WIDTH = 100
#: So many metrics get a row each; a few more than that are shown too, many more are left to the report.
METRICS_IN_ROWS = 12
A_FEW_MORE = 4

TESTED_AT = {
    "best epoch": "at the epoch that was best on validation",
    "last epoch": "at the last epoch",
    "epoch best on the same metrics": "at the epoch that was best on these same values, which flatters all",
}

#: Outcome -> (sign, word): colour is never needed to read one.
MARKS: dict[Outcome, tuple[str, str]] = {
    "baseline": ("", "baseline"),
    "better": ("▲", "better"),
    "worse": ("▼", "worse"),
    "noise": ("≈", "within noise"),
    "no difference": ("=", "no difference"),
    "untested": ("?", "not tested"),
    "no result": ("✕", "no result"),
}
_STYLES: dict[Outcome, str] = {
    "baseline": "",
    "better": "green",
    "worse": "red",
    "noise": "",
    "no difference": "",
    "untested": "",
    "no result": "yellow",
}


@dataclass(frozen=True)
class Row:
    """One arm of the table."""

    arm: str
    comparison: Comparison
    finished: int
    planned: int
    reason: str | None  # why fewer trials finished than were planned, as a clause
    statuses: tuple[str, ...]  # how the trials without a result ended
    sentence: str
    words: Mapping[str, str] = field(default_factory=dict)  # column -> text, over all finished seeds
    remarks: tuple[str, ...] = ()
    #: Against the tuned sum, in a tuned comparison.
    against_sum: Comparison | None = None
    #: Against single-task training, where each loss was trained alone.
    delta_m: Interval | None = None
    #: The settings that were tried for it.
    tuned: TunedRow | None = None


@dataclass(frozen=True)
class Table:
    """The rows in the order of the study, the metrics they are about, and the answer in words."""

    problem: str
    baseline: str
    metrics: tuple[MetricColumn, ...]
    rows: tuple[Row, ...]
    verdict: str
    tested_at: str = TESTED_AT["best epoch"]
    #: Sentences about the tuning, and about the front of the sum.
    tuning: tuple[str, ...] = ()
    front: tuple[str, ...] = ()
    pareto: Pareto | None = None
    #: Whether step times were measured in turns with the baseline's; otherwise they are the trials' own.
    timed_in_turns: bool = False

    @property
    def of_what(self) -> str:
        """What the values were measured on."""
        return "Values as logged" if self.tested_at.endswith("flatters all") else "Test set"

    @property
    def word_columns(self) -> list[str]:
        """Titles of the columns that hold texts."""
        return list(dict.fromkeys(title for row in self.rows for title in row.words))

    @property
    def remarks(self) -> list[str]:
        """What was found out about the finished models, one sentence per arm and finding."""
        return [f"{row.arm}: {remark}" for row in self.rows for remark in row.remarks]

    @property
    def sentences(self) -> list[str]:
        """One sentence per arm, without the baseline when there is nothing to say about it."""
        return [
            row.sentence
            for row in self.rows
            if row.comparison.outcome != "baseline" or row.finished < row.planned or row.against_sum
        ]


def read_table(folder: Path) -> Table:
    """The table of a run folder."""
    return make_table(read_run(folder))


def make_table(run: RunRecord, at_least: float = 0.0) -> Table:
    """The table of a run: test values at the epoch that was best on validation, or at the last one.

    ``at_least``: the smallest relative change that matters.
    """
    compared = _compared(run, run.baseline, at_least)
    against_sum = {} if run.tuned_sum is None else _compared(run, run.tuned_sum, at_least)
    single, front = single_task_of(run), pareto_of(run, at_least)
    rows = []
    for arm in run.arms:
        trials = run.of(arm)
        reason = why_missing(trials)
        statuses = tuple(dict.fromkeys(trial.status for trial in trials if trial.status != "finished"))
        sentence = explain(compared[arm], run.baseline, len(trials), reason)
        if run.tuned_sum not in (None, arm) and run.finished(arm):
            more = explain(against_sum[arm], str(run.tuned_sum), len(trials))
            sentence += f" {_without_name(more, arm)}"
        rows.append(
            Row(
                arm,
                compared[arm],
                len(run.finished(arm)),
                len(trials),
                reason,
                statuses,
                sentence,
                words_of(run.finished(arm)),
                remarks_of(run.finished(arm)),
                against_sum.get(arm),
                single.get(arm),
                run.tuning.get(arm),
            )
        )
    pending = sum(trial.status in ("unfinished", "missing", "damaged") for trial in run.trials)
    answers = [verdict([row.comparison for row in rows], run.baseline, pending=pending)]
    if run.tuned_sum is not None and not pending:
        answers.append(verdict(list(against_sum.values()), run.tuned_sum, with_limits=False))
    sentences = () if front is None else tuple(front_words(front))
    return Table(
        problem=run.problem,
        baseline=run.baseline,
        metrics=run.metrics,
        rows=tuple(rows),
        verdict=" ".join(dict.fromkeys([*answers, *sentences[:1]])),  # that one seed is too few: once
        tested_at=TESTED_AT.get(str(run.settings.get("tested")), TESTED_AT["best epoch"]),
        tuning=tuple(tuning_words(run)),
        front=sentences[1:],
        pareto=front,
        timed_in_turns=bool(run.step_times),
    )


def _compared(run: RunRecord, baseline: str, at_least: float) -> dict[str, Comparison]:
    """Every row against one of them."""
    compared = compare(
        {arm: {trial.seed: trial.test for trial in run.finished(arm)} for arm in run.arms},
        {metric.name: metric.higher_is_better for metric in run.metrics if not metric.derived},
        baseline,
        step_times={
            arm: [trial.step_ms for trial in run.finished(arm) if trial.step_ms is not None]
            for arm in run.arms
        },
        shown_only=[metric.name for metric in run.metrics if metric.derived],
        resolution=_resolution(run),
        at_least=at_least,
    )
    if not run.step_times:
        return compared
    return {arm: replace(row, step_time=run.step_times.get(arm)) for arm, row in compared.items()}


def _without_name(sentence: str, arm: str) -> str:
    """The second sentence about a row needs no name: ``+0.3% against the tuned sum, ...``"""
    rest = sentence.removeprefix(f"{arm}: ")
    return rest[:1].upper() + rest[1:]


def _resolution(run: RunRecord) -> dict[str, float]:
    """By metric: what one right decision more makes, for those that are a share of right decisions."""
    steps: dict[str, float] = {}
    for trial in run.trials:
        for name, count in trial.decisions.items():
            if count >= 1:
                steps[name] = min(steps.get(name, 1.0), 1 / count)
    return steps


def words_of(trials: Sequence[TrialRecord]) -> dict[str, str]:
    """Column -> the text of all trials, or each with how often it came: ``suspected 2/3, no sign 1/3``."""
    words = {}
    for title in dict.fromkeys(title for trial in trials for title in trial.words):
        counts = Counter(trial.words.get(title, "–") for trial in trials)
        words[title] = (
            next(iter(counts))
            if len(counts) == 1
            else ", ".join(f"{text} {count}/{len(trials)}" for text, count in counts.most_common())
        )
    return words


def remarks_of(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """What the final evaluation said and what warned in training, with the seeds where they differ."""
    said: dict[str, list[int]] = {}
    for trial in trials:
        for text in trial.remarks:
            said.setdefault(text, []).append(trial.seed)
    for warning in dict.fromkeys(warning for trial in trials for warning in trial.warnings):
        counts = {trial.seed: count for trial in trials if (count := trial.warnings.get(warning))}
        fewest, most = min(counts.values()), max(counts.values())
        often = "once" if most == 1 else f"{fewest if fewest == most else f'{fewest} to {most}'} times"
        said[f"{warning} (warned {often} in training)"] = list(counts)
    return tuple(
        text if len(seeds) == len(trials) else f"{text} (seed {', '.join(map(str, seeds))})"
        for text, seeds in said.items()
    )


_ENDINGS = {
    "unfinished": "not finished yet",
    "missing": "not started yet",
    "damaged": "cannot be read",
}


def why_missing(trials: Sequence[TrialRecord]) -> str | None:
    """Why some of these trials have no result, as a clause: ``seeds 1, 3 diverged (loss is nan)``."""
    seeds: dict[str, list[int]] = {}
    for trial in trials:
        if trial.status == "finished":
            continue
        ending = _ENDINGS.get(trial.status, trial.status)
        said = (trial.reason or "").strip().rstrip(".")
        seeds.setdefault(f"{ending} ({said})" if said and said != ending else ending, []).append(trial.seed)
    if not seeds:
        return None
    if len(seeds) == 1 and len(trials) > 1 and len(next(iter(seeds.values()))) == len(trials):
        return f"all {len(trials)} seeds {next(iter(seeds))}"
    clauses = [
        f"{'seed' if len(about) == 1 else 'seeds'} {', '.join(map(str, about))} {ending}"
        for ending, about in list(seeds.items())[:3]
    ]
    more = sum(len(about) for about in list(seeds.values())[3:])
    return ", ".join(clauses) + (f", and {more} more without a result" if more else "")


# -- numbers as text ---------------------------------------------------------------------------------------


def decimals(intervals: Sequence[Interval]) -> int | None:
    """Digits after the point for a column: two of the median half width, and three of the largest mean.

    None for sizes that read better with an exponent.
    """
    size = max((abs(interval.mean) for interval in intervals), default=0.0)
    halves = [interval.half_width for interval in intervals if interval.half_width]
    if size >= 1e6 or 0 < size < 1e-3:
        return None
    wanted = (
        [2 - math.floor(math.log10(size)) if halves else 3 - math.floor(math.log10(size))] if size else []
    )
    if halves:
        wanted.append(1 - math.floor(math.log10(median(halves))))
    return min(max([0, *wanted]), 6)


def interval_text(interval: Interval | None, digits: int | None) -> str:
    """``0.8534 ± 0.0061``, with these digits after the point."""
    if interval is None:
        return "–"
    shape = ".2e" if digits is None else f".{digits}f"
    text = format(interval.mean, shape)
    if interval.half_width is not None:
        text += f" ± {format(interval.half_width, '.1e' if digits is None else shape)}"
    return text.replace("-", "−")


def metric_texts(table: Table) -> dict[str, dict[str, str]]:
    """Metric name -> arm -> text, with the same digits for all arms."""
    texts = {}
    for metric in table.metrics:
        cells = {row.arm: row.comparison.metrics.get(metric.name) for row in table.rows}
        digits = decimals([cell for cell in cells.values() if cell is not None])
        texts[metric.name] = {arm: interval_text(cell, digits) for arm, cell in cells.items()}
    return texts


def change_texts(table: Table, of_sum: bool = False) -> dict[str, str]:
    """Arm -> ``+1.2% ± 0.8%``: the change against the baseline (or the tuned sum), or how it ended."""
    compared = {row.arm: row.against_sum if of_sum else row.comparison for row in table.rows}
    intervals = [row.change for row in compared.values() if row is not None and row.change is not None]
    digits = round(median(percent_digits(interval) for interval in intervals)) if intervals else 1
    texts = {}
    for row in table.rows:
        found = compared[row.arm]
        if row.comparison.outcome == "no result":
            texts[row.arm] = ", ".join(row.statuses) or "no result"
        elif found is None or found.outcome == "baseline" or found.change is None:
            texts[row.arm] = "–"
        else:
            texts[row.arm] = change_text(found.change, digits)
    return texts


def change_text(change: Interval | None, digits: int = 1) -> str:
    """``+1.2% ± 0.8%``."""
    if change is None:
        return "–"
    half = change.half_width
    spread = "" if half is None else f" ± {percent(half, signed=False, digits=digits)}"
    return percent(change.mean, digits=digits) + spread


def p_cell(row: Comparison) -> str:
    """The corrected p-value alone."""
    if row.test.adjusted is None:
        return "–"
    return p_text(row.test.adjusted).removeprefix("p = ").removeprefix("p ")


def rank_text(row: Comparison) -> str:
    """The mean rank with one digit."""
    return "–" if row.mean_rank is None else f"{row.mean_rank:.1f}"


def time_text(row: Comparison) -> str:
    """Step time over the baseline's: ``1.13×``."""
    return "–" if row.step_time is None else f"{row.step_time:.2f}×"


def seeds_text(row: Row) -> str:
    """How many trials finished: ``5``, or ``3/5``."""
    return str(row.finished) if row.finished == row.planned else f"{row.finished}/{row.planned}"


def column_titles(metrics: Sequence[MetricColumn]) -> dict[str, str]:
    """Titles of metric columns: the task alone when every task has one metric, and all the same one.

    A derived metric belongs to no task and keeps its name.
    """
    own = [metric for metric in metrics if not metric.derived]
    kinds = {metric.name.partition("/")[2] or metric.name for metric in own}
    titles = {metric.name: metric.task for metric in own}
    if len(kinds) != 1 or len(set(titles.values())) != len(titles):
        titles = {}
    return {metric.name: titles.get(metric.name, metric.name) for metric in metrics}


# -- on a terminal -----------------------------------------------------------------------------------------


def print_table(table: Table, console: Console) -> None:
    """Print the table and its words; the console's width decides which columns there are room for."""
    width = min(console.width, WIDTH)
    console.print(render(table, width), width=width)


def render(table: Table, width: int = WIDTH) -> RenderableType:
    """The table, and below it the answer in words, in ``width`` columns.

    What does not fit goes in this order: the metrics (to a table of their own), step time, rank, p,
    seeds. The method and its change against the baseline always stay.
    """
    titles = {
        metric.name: f"{title} {'↑' if metric.higher_is_better else '↓'}"
        for metric, title in zip(table.metrics, column_titles(table.metrics).values(), strict=True)
    }
    metrics = [Column(titles[name], cells) for name, cells in metric_texts(table).items()]
    changes = change_texts(table)
    words = [
        Column(title, {row.arm: row.words.get(title, "–") for row in table.rows})
        for title in table.word_columns
    ]
    more = more_changes(table)
    summary = [
        Column(
            f"vs {table.baseline}",
            {row.arm: f"{MARKS[row.comparison.outcome][0]} {changes[row.arm]}".strip() for row in table.rows},
        ),
        *(column for column in more if column.title != "tuned"),
        *words,
        Column("p", {row.arm: p_cell(row.comparison) for row in table.rows}),
        Column("rank", {row.arm: rank_text(row.comparison) for row in table.rows}),
        Column("time", {row.arm: time_text(row.comparison) for row in table.rows}),
        *(column for column in more if column.title == "tuned"),
        Column("seeds", {row.arm: seeds_text(row) for row in table.rows}),
    ]
    arms = [row.arm for row in table.rows]
    together = _width(arms, [*metrics, *summary]) <= width
    columns = [*metrics, *summary] if together else list(summary)
    for title in ("time", "rank", "p", "tuned", "seeds"):
        if _width(arms, columns) > width:
            columns = [column for column in columns if column.title != title]
    parts: list[RenderableType] = [_grid(table, columns)]
    parts.append(Text())
    if not together:
        parts += _metric_grids(table, metrics, words, width)
    parts += [Text(_legend(table), style="dim"), Text(), Text(table.verdict, style="bold")]
    said = (*table.sentences, *table.front, *table.tuning, *table.remarks)
    parts += [Padding(Text("• " + sentence), (0, 0, 0, 2)) for sentence in said]
    return Group(*parts)


@dataclass(frozen=True)
class Column:
    """A title, and one text per arm; where there is room, what the title is about."""

    title: str
    cells: Mapping[str, str]
    unit: str = ""

    def width(self, arms: Sequence[str]) -> int:
        """Of the widest text."""
        return max(cell_len(self.title), *(cell_len(self.cells[arm]) for arm in arms))


def more_changes(table: Table) -> list[Column]:
    """Against the tuned sum and against single-task training, and what the tuning cost: what there is."""
    columns = []
    if any(row.against_sum for row in table.rows):
        changes = change_texts(table, of_sum=True)
        signs = {
            row.arm: "" if row.against_sum is None else MARKS[row.against_sum.outcome][0]
            for row in table.rows
        }
        cells = {arm: f"{signs[arm]} {text}".strip() for arm, text in changes.items()}
        columns.append(Column("vs tuned sum", cells))
    if any(row.delta_m for row in table.rows):
        columns.append(
            Column("Δm", {row.arm: change_text(row.delta_m) for row in table.rows}, "vs single tasks")
        )
    if any(row.tuned for row in table.rows):
        costs = {row.arm: "–" if row.tuned is None else cost_text(row.tuned) for row in table.rows}
        columns.append(Column("tuned", costs, "settings tried"))
    return columns


def _width(arms: Sequence[str], columns: Sequence[Column]) -> int:
    """How wide a grid is: three blanks between columns."""
    names = max(len("method"), *(cell_len(arm) for arm in arms))
    return names + sum(3 + column.width(arms) for column in columns)


def _new_grid() -> RichTable:
    return RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))


def _grid(table: Table, columns: Sequence[Column]) -> RichTable:
    grid = _new_grid()
    grid.add_column("method", overflow="fold")
    for column in columns:
        grid.add_column(Text(column.title), justify="right", no_wrap=True)
    for row in table.rows:
        style = _STYLES[row.comparison.outcome]
        cells = [
            Text(column.cells[row.arm], style=style if column.title.startswith("vs ") else "")
            for column in columns
        ]
        grid.add_row(Text(row.arm), *cells, style="bold" if row.arm == table.baseline else "")
    return grid


def _metric_grids(
    table: Table, metrics: Sequence[Column], words: Sequence[Column], width: int
) -> list[RenderableType]:
    """The metrics: one column each if all fit, or else one row each and a column per method that fits.

    The texts stand beside them again: a number that needs a word is not shown without it.
    """
    arms = [row.arm for row in table.rows if row.finished]
    if not arms or not metrics:
        return []
    if _width([row.arm for row in table.rows], [*metrics, *words]) <= width:
        return [_grid(table, [*metrics, *words]), Text()]
    room = METRICS_IN_ROWS + A_FEW_MORE
    first = metrics if len(metrics) <= room else metrics[:METRICS_IN_ROWS]
    shown = [*first, *words]
    names = min(max(cell_len(column.title) for column in shown), width // 2)
    used, kept = names, []
    for arm in arms:
        used += 3 + max(cell_len(arm), *(cell_len(column.cells[arm]) for column in shown))
        if used > width:
            break
        kept.append(arm)
    grid = _new_grid()
    grid.add_column("test metric", no_wrap=True, overflow="ellipsis", width=names)
    for arm in kept:
        grid.add_column(Text(arm), justify="right", no_wrap=True)
    for column in shown:
        grid.add_row(Text(column.title), *(Text(column.cells[arm]) for arm in kept))
    left = []
    if len(first) < len(metrics):
        left.append(f"{len(metrics) - len(first)} more metrics")
    if len(kept) < len(arms):
        left.append(f"{len(arms) - len(kept)} more methods")
    more = f"{' and '.join(left)} in report.html." if left else ""
    return [grid, Text(more, style="dim"), Text()] if kept else [Text(more, style="dim"), Text()]


def _legend(table: Table) -> str:
    against = f"vs {table.baseline}"
    if any(row.against_sum for row in table.rows):
        against += " and vs tuned sum (the best static weights found)"
    single = (
        "Δm: the same change against models trained on one loss alone. "
        if any(row.delta_m for row in table.rows)
        else ""
    )
    tuned = "tuned: settings tried, and their trials' time. " if table.tuning else ""
    return (
        f"{table.of_what}, mean ± 95% interval over seeds, {table.tested_at}. "
        f"{against}: mean relative change over the metrics, paired by seed, + is better; "
        "▲ better, ▼ worse, ≈ within noise, = no difference, ? not tested. "
        f"{single}p: paired t-test against {table.baseline} with Holm's correction. "
        f"rank: mean over the metrics, 1 is best. {tuned}{time_words(table)}"
    )


def time_words(table: Table) -> str:
    """How the column of times was measured."""
    if table.timed_in_turns:
        return "time: a step over the baseline's, the two measured in turns in one process."
    return "time: median step over the baseline's, as the trials ran."


def render_text(table: Table, width: int = WIDTH) -> str:
    """The table and its words as plain text."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(table, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
