"""A table on a terminal, and as plain text: what fits into its width."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from manyloss.lab.analysis.cells import (
    Column,
    change_texts,
    column_titles,
    metric_texts,
    more_changes,
    p_cell,
    rank_text,
    seeds_text,
    time_text,
    time_words,
)
from manyloss.lab.analysis.statistics import Outcome
from manyloss.lab.analysis.table import MARKS, Table

WIDTH = 100
#: So many metrics get a row each; a few more than that are shown too, many more are left to the report.
METRICS_IN_ROWS = 12
A_FEW_MORE = 4
_STYLES: dict[Outcome, str] = {
    "baseline": "",
    "better": "green",
    "worse": "red",
    "noise": "",
    "no difference": "",
    "untested": "",
    "no result": "yellow",
}


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


def render_text(table: Table, width: int = WIDTH) -> str:
    """The table and its words as plain text."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(table, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
