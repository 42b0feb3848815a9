"""board.html: does anything beat a tuned sum, problem by problem and over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyloss.lab.analysis.board import Board, Entry
from manyloss.lab.analysis.cells import change_text, median_text
from manyloss.lab.analysis.sentences import percent
from manyloss.lab.analysis.statistics import Interval
from manyloss.lab.analysis.table import MARKS
from manyloss.lab.analysis.tuning import options_in_words, words_of_setting
from manyloss.lab.reports.front import draw_means
from manyloss.lab.reports.looks import PALETTE, Panel, draw, plain, render, styles_of
from manyloss.lab.runs import storage
from manyloss.lab.runs.progress import duration

ROW = 26


def write_board(path: Path, board: Board) -> Path:
    """Write the page as one file that needs no network, and return its path."""
    styles = styles_of([each.method for each in board.standings], "equal")
    page = render(
        "board.html.j2",
        title="The board",
        heading="The board: does anything beat a tuned sum?",
        facts="",
        made_from="board",
        board=board,
        ranks=draw_ranks(board),
        cell=cell,
        trade_offs={
            entry.problem: draw_means(list(entry.run["metrics"]), entry.trade_off, styles)
            for entry in board.entries
            if entry.trade_off
        },
        styles=list(styles.values()),
        median_text=median_text,
        delta_of=delta_cell,
        words_of=words_of_setting,
        options_of=options_in_words,
        duration=duration,
    )
    storage.write_bytes(path, page.encode("utf-8"))
    return path


def cell(entry: Entry, method: str, against: str = "change") -> str:
    """``▲ +1.2% ± 0.4`` of one method on one problem; a dash where it was not run."""
    row = entry.methods.get(method)
    if row is None:
        return "–"
    outcome = "outcome" if against == "change" else "outcome_against_tuned_sum"
    change, half = row.get(against), row.get(f"{against}_half_width")
    if row.get(outcome) == "baseline" or change is None:
        return "baseline" if row.get(outcome) == "baseline" else "–"
    sign = MARKS[row[outcome]][0]
    width = "" if half is None else f" ± {100 * float(half):.1f}"
    return f"{sign} {percent(float(change))}{width}".strip()


def delta_cell(row: Mapping[str, Any]) -> str:
    """The change against single-task training; a dash where none was run."""
    if row.get("delta_m") is None:
        return "–"
    return change_text(Interval(float(row["delta_m"]), row.get("delta_m_half_width"), int(row["finished"])))


def draw_ranks(board: Board) -> Panel | None:
    """Mean ranks over the problems, with what may as well be equal to the best; None without any."""
    ranked = [each for each in board.standings if each.mean_rank is not None]
    if not ranked:
        return None
    places = [-place for place in range(len(ranked))]
    values = [float(each.mean_rank or 0.0) for each in ranked]
    trace: dict[str, Any] = {
        "x": values,
        "y": places,
        "text": [plain(each.method) for each in ranked],
        "mode": "markers",
        "marker": {"color": PALETTE["ink"][0], "size": 9},
        "hovertemplate": "%{text}: mean rank %{x:.2f}<extra></extra>",
    }
    shapes: list[dict[str, Any]] = []
    if board.critical_difference is not None:
        band = {
            "x0": values[0],
            "x1": values[0] + board.critical_difference,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
        }
        fill = {"fillcolor": PALETTE["grid"][0], "line": {"width": 0}, "layer": "below"}
        shapes.append({"type": "rect", **band, **fill})
    height = 80 + ROW * len(ranked)
    figure = draw(
        [trace],
        height,
        xaxis={
            "label": "mean rank over the problems, 1 is best",
            "showgrid": True,
            "range": [0.8, len(ranked) + 0.2],
        },
        yaxis={
            "tickvals": places,
            "ticktext": [plain(each.method) for each in ranked],
            "automargin": True,
            "range": [0.7 - len(ranked), 0.7],
            "showgrid": False,
            "zeroline": False,
        },
        shapes=shapes,
    )
    told = ", ".join(f"{each.method} {value:.2f}" for each, value in zip(ranked, values, strict=True))
    return Panel(f"Mean rank over the problems: {told}.", figure, height, wide=True)
