"""The report: report.html, one file that needs no network, made from a run folder. It runs nothing.

First the answer in words, then the table, then the figures, then how all of it was made. Words and
tables are plain HTML and read without JavaScript; the figures are drawn by plotly.js, which is embedded.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manyloss.lab.analysis import cells
from manyloss.lab.analysis.results import RunRecord, read_run
from manyloss.lab.analysis.sentences import baseline_words, percent
from manyloss.lab.analysis.table import MARKS, Table, make_table
from manyloss.lab.reports import claim, shown, under_attack
from manyloss.lab.reports.drawing import draw_changes, draw_curves, draw_times, draw_traces
from manyloss.lab.reports.figures import LINES, Figures, make_figures
from manyloss.lab.reports.front import draw_front
from manyloss.lab.reports.looks import render, styles_of
from manyloss.lab.reports.relations import draw_relations
from manyloss.lab.reports.spread import draw_spread
from manyloss.lab.runs import storage
from manyloss.lab.runs.machines import machines_in, words_of_machine


def write_report(folder: Path, out: Path | None = None, at_least: float = 0.0) -> Path:
    """Write ``report.html`` into the run folder, or the file ``out``, and return its path.

    Raises:
        LabError: the folder is no run folder or damaged, or the report cannot be written.

    """
    folder = Path(folder)
    run = read_run(folder)
    page = render_report(run, make_table(run, at_least))
    path = folder / "report.html" if out is None else out
    storage.write_bytes(path, page.encode("utf-8"))
    return path


def render_report(run: RunRecord, table: Table) -> str:
    """The whole page."""
    figures = make_figures(run, table)
    against = baseline_words(table.baseline)
    arms, losses = styles_of(run.arms, run.baseline), styles_of(run.losses)
    counted = [metric.name for metric in table.metrics if not metric.derived]
    return render(
        "report.html.j2",
        title=f"{run.problem}: {len(run.arms)} methods compared",
        heading=run.problem,
        facts=" · ".join(_facts(run, against)),
        made_from="from the files of the run folder",
        run=run,
        table=table,
        against=against,
        arms=list(arms.values()),
        losses=list(losses.values()),
        figures=figures,
        drawn=_drawn(run, table, figures, against),
        claim=claim.read(run),
        attacked=under_attack.read(run, arms),
        shown=shown.read(run),
        # -- the table, in words
        marks=MARKS,
        titles=cells.column_titles(table.metrics),
        cells=cells.metric_texts(table),
        changes=cells.change_texts(table),
        more_changes=cells.more_changes(table),
        single_task=any(row.delta_m for row in table.rows),
        time_words=cells.time_words(table),
        gains={
            row: "–" if (best := tuned.best) is None else percent(best) for row, tuned in run.tuning.items()
        },
        p_cell=cells.p_cell,
        rank_text=cells.rank_text,
        time_text=cells.time_text,
        seeds_text=cells.seeds_text,
        derived=[metric.name for metric in run.metrics if metric.derived],
        partial=[row.arm for row in table.rows if 0 < len(row.comparison.covered) < len(counted)],
        never_finished=[
            arm for arm in run.arms if not run.finished(arm) and any(trial.epochs for trial in run.of(arm))
        ],
        losses_in_lines=len(run.losses) <= LINES,
        how_drawn="Click a loss to hide it or show it."
        if len(run.losses) <= LINES
        else f"One row per loss, {len(run.losses)} in all; each panel has its own scale.",
        command=shlex.join(run.command),
        made=_made(run),
    )


def _drawn(run: RunRecord, table: Table, figures: Figures, against: str) -> dict[str, Any]:
    """The figures by section."""
    styles, losses = styles_of(run.arms, run.baseline), styles_of(run.losses)
    arms = list(styles.values())
    return {
        "changes": draw_changes(figures.changes, arms, against) if figures.changes else None,
        "changes_of_sum": draw_changes(figures.changes_of_sum, arms, "the tuned sum")
        if figures.changes_of_sum
        else None,
        "relations": draw_relations(run, styles),
        "front": draw_front(table.pareto, styles) if table.pareto is not None else None,
        "times": draw_times(figures.times, arms, against) if figures.times else None,
        "validation": [draw_curves(panel, arms) for panel in figures.validation],
        "train": [draw_curves(panel, arms) for panel in figures.train],
        "along": [draw_curves(panel, arms) for panel in figures.along],
        "weights": [draw_traces(panel, losses, "weight") for panel in figures.weights],
        "norms": [draw_traces(panel, losses, "norm") for panel in figures.norms],
        "conflict": [draw_traces(panel, losses, "cosine") for panel in figures.conflict],
        "spread": draw_spread(run, styles),
    }


def _facts(run: RunRecord, against: str) -> list[str]:
    counts = [
        (len(run.arms), "method", "methods"),
        (len(run.seeds), "seed", "seeds"),
        (run.epochs, "epoch", "epochs"),
        (len(run.losses), "loss", "losses"),
    ]
    facts = [f"{number} {one if number == 1 else many}" for number, one, many in counts]
    return [*facts, f"compared with {against}", *([date] if (date := _date(run.created)) else [])]


def _made(run: RunRecord) -> dict[str, Any]:
    """How the run was made, by what a reader would look for."""
    environment = dict(run.environment)
    machine = {key: environment.pop(key, None) for key in ("platform", "processor", "cores", "jobs")}
    machine["threads_per_trial"] = environment.pop("threads_per_trial", None)
    machines = machines_in(run.environment)
    if len(machines) > 1:
        machine["trained on"] = [words_of_machine(each) for each in machines]
    commits = environment.pop("commits", [])
    environment.pop("machines", None)
    return {
        "Problem": run.problem,
        "Started": _date(run.created) or "not recorded",
        "Report made": _date(datetime.now(UTC).isoformat(timespec="seconds")),
        "Seeds": ", ".join(map(str, run.seeds)),
        "Epochs": run.epochs,
        "Epoch chosen": "the best on the validation split, for every trial by itself; the test split "
        "was read once, at that epoch",
        "Fairness": "for each seed all methods start from the same weights and see the data in the same "
        "order (methods that change the model itself excepted)",
        "Versions": environment,
        "Commit": ", ".join(map(str, commits)) if isinstance(commits, list) else str(commits),
        "Machine": machine,
        "Settings": run.settings,
        "Statistics": "intervals: t-distribution over seeds; tests: two-sided paired t-test on the mean "
        "relative change, Holm's correction over the methods, 5% level",
    }


def _date(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.day} {when:%B %Y, %H:%M}" + (f" {when:%Z}" if when.tzinfo else "")
