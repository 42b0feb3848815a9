"""A table's cells: numbers as text, the same on a terminal and on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.cells import cell_len

from manyloss.lab.analysis.beside import cost_text
from manyloss.lab.analysis.results import MetricColumn
from manyloss.lab.analysis.sentences import p_text, percent, percent_digits
from manyloss.lab.analysis.statistics import Comparison, Interval, Median
from manyloss.lab.analysis.table import MARKS, Row, Table


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


def median_text(change: Median | None) -> str:
    """``+1.2% (−0.3% to +2.0%)``."""
    if change is None:
        return "–"
    if change.low is None or change.high is None:
        return percent(change.median)
    return f"{percent(change.median)} ({percent(change.low)} to {percent(change.high)})"


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


def time_words(table: Table) -> str:
    """How the column of times was measured."""
    if table.timed_in_turns:
        return "time: a step over the baseline's, the two measured in turns in one process."
    return "time: median step over the baseline's, as the trials ran."


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
