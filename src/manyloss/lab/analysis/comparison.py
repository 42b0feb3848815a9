"""What `lab.compare` returns: the results of a run folder as a table one can work with."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyloss.lab.analysis.cells import metric_texts
from manyloss.lab.analysis.pareto import BesideTheFront
from manyloss.lab.analysis.results import RunRecord, read_run
from manyloss.lab.analysis.table import Row, Table, make_table
from manyloss.lab.analysis.terminal import render_text
from manyloss.lab.runs import storage

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


@dataclass(frozen=True)
class ComparedMethods:
    """A finished or running comparison. Printed, it is the table of the command line.

    Attributes:
        folder: the run folder; everything here can be had from it again with `manyloss.lab.report`.
        run: its records, down to every trial's epochs.
        table: the rows with intervals, tests and words.
        report: the page, or None where the folder cannot be written.

    """

    folder: Path
    run: RunRecord
    table: Table
    report: Path | None = None

    @classmethod
    def read(cls, folder: Path, report: Path | None = None, at_least: float = 0.0) -> ComparedMethods:
        """What is in a run folder by now; ``at_least`` is the smallest relative change that matters."""
        run = read_run(folder)
        return cls(Path(folder), run, make_table(run, at_least), report)

    @property
    def verdict(self) -> str:
        """The answer in one or two sentences."""
        return self.table.verdict

    def rows(self) -> list[dict[str, Any]]:
        """One per method: its outcome, change, p-value, and of every metric the mean and half width."""
        pareto = self.table.pareto
        beside = {} if pareto is None else {each.point.name: each for each in pareto.methods}
        rows = []
        for row in self.table.rows:
            compared = row.comparison
            change = compared.change
            cells: dict[str, Any] = {
                "method": row.arm,
                "outcome": compared.outcome,
                "change": None if change is None else change.mean,
                "change_half_width": None if change is None else change.half_width,
                "p": compared.test.adjusted,
                "mean_rank": compared.mean_rank,
                "step_time": compared.step_time,
                **_beside(row, beside.get(row.arm)),
                "finished": row.finished,
                "planned": row.planned,
            }
            for metric in self.table.metrics:
                interval = compared.metrics.get(metric.name)
                cells[metric.name] = None if interval is None else interval.mean
                cells[f"{metric.name} half width"] = None if interval is None else interval.half_width
            rows.append({**cells, **row.words})
        return rows

    def trials(self) -> list[dict[str, Any]]:
        """One per method and seed: how it ended, its chosen epoch, and its test metrics."""
        return [
            {
                "method": trial.arm,
                "seed": trial.seed,
                "status": trial.status,
                "reason": trial.reason,
                "epoch": trial.best_epoch,
                "seconds": trial.seconds,
                **{metric.name: trial.test.get(metric.name) for metric in self.run.metrics},
            }
            for trial in self.run.trials
        ]

    def to_pandas(self, of: str = "rows") -> Any:
        """`rows` or `trials` as a pandas DataFrame; needs pandas."""
        import pandas

        return pandas.DataFrame(self._records(of))

    def to_csv(self, path: str | Path | None = None, *, of: str = "rows") -> str:
        """`rows` or `trials` as comma-separated text, written to ``path`` if it is given."""
        records = self._records(of)
        columns = list(dict.fromkeys(name for record in records for name in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return _written(text.getvalue(), path)

    def to_latex(self, path: str | Path | None = None) -> str:
        """The table for a paper (booktabs): one row per method, mean ± 95 % interval per metric."""
        texts = metric_texts(self.table)
        titles = [f"{metric.name} {'↑' if metric.higher_is_better else '↓'}" for metric in self.table.metrics]
        lines = [
            rf"\begin{{tabular}}{{l{'r' * len(titles)}}}",
            r"\toprule",
            " & ".join(_latex(title) for title in ("method", *titles)) + r" \\",
            r"\midrule",
        ]
        for row in self.table.rows:
            cells = [row.arm, *(texts[metric.name][row.arm] for metric in self.table.metrics)]
            lines.append(" & ".join(_latex(cell) for cell in cells) + r" \\")
        return _written("\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]), path)

    def __str__(self) -> str:
        return render_text(self.table)

    def _records(self, of: str) -> list[dict[str, Any]]:
        kinds: Mapping[str, Any] = {"rows": self.rows, "trials": self.trials}
        if of not in kinds:
            raise ValueError(f"of must be one of {', '.join(kinds)}, got {of!r}.")
        records: list[dict[str, Any]] = kinds[of]()
        return records


def _beside(row: Row, front: BesideTheFront | None) -> dict[str, Any]:
    """Against the tuned sum, single tasks and the front, and what the tuning cost: what there is of it."""
    cells: dict[str, Any] = {}
    if row.against_sum is not None:
        change = row.against_sum.change
        cells |= {
            "outcome_against_tuned_sum": row.against_sum.outcome,
            "change_against_tuned_sum": None if change is None else change.mean,
            "change_against_tuned_sum_half_width": None if change is None else change.half_width,
            "p_against_tuned_sum": row.against_sum.test.adjusted,
        }
    if row.tuned is not None:
        cells |= {
            "setting": row.tuned.chosen,
            "tuning_trials": row.tuned.trials,
            "tuning_hours": row.tuned.seconds / 3600,
            "rate_at_the_end": row.tuned.at_the_end,
        }
    if row.delta_m is not None:
        cells |= {"delta_m": row.delta_m.mean, "delta_m_half_width": row.delta_m.half_width}
    if front is not None:
        cells |= {
            "front": front.where,
            "front_distance": front.distance.value,
            "front_distance_low": front.distance.low,
            "front_distance_high": front.distance.high,
            "hypervolume_gain": front.gain.value,
        }
    return cells


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        storage.write_bytes(Path(path), text.encode())
    return text
