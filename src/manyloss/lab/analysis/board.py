"""The board read back: one entry per problem, and what they say together.

Changes over the problems are medians: an error that doubles is a change of -100 %, one that halves of +50 %,
and a mean over a few problems would tell of the one on which a method went wrong.

Methods are ranked within each problem by their mean change against equal weights. Over the problems,
Friedman's test asks whether the ranks differ at all, and Nemenyi's critical difference (Demsar 2006) by how
much two mean ranks must differ: CD = q sqrt(k (k + 1) / (6 N)) for k methods on N problems, with q from the
studentized range at 5 %, divided by sqrt 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np

from manyloss.lab import checks
from manyloss.lab.analysis.comparison import ComparedMethods
from manyloss.lab.analysis.pareto import nondominated
from manyloss.lab.analysis.sentences import limits_text, listed
from manyloss.lab.analysis.statistics import (
    SIGNIFICANCE,
    Interval,
    Median,
    median_interval,
    relative_change,
    told_from,
)
from manyloss.lab.analysis.tuning import finalists_in
from manyloss.lab.runs import storage
from manyloss.lab.runs.machines import machines_in
from manyloss.lab.tuning import TUNED_SUM

FORMAT = 1
TESTED = ("better", "worse", "noise", "no difference")


@dataclass(frozen=True)
class Entry:
    """One problem of the board: ``rows`` are those of `ComparedMethods.rows`, ``run`` says how it was run."""

    problem: str
    rows: tuple[Mapping[str, Any], ...]
    run: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, results: ComparedMethods, summary: str, tune: int) -> Entry:
        """Of a comparison, as far as it has got."""
        run = results.run
        finalists, more_seeds = finalists_in(run.tuning.values())
        said = {
            "summary": summary,
            "losses": len(run.losses),
            "metrics": {each.name: each.higher_is_better for each in run.metrics if not each.derived},
            "tune": tune,
            "finalists": finalists,
            "more_seeds": more_seeds,
            "seeds": list(run.seeds),
            "epochs": run.epochs,
            "created": run.created,
            **{name: _of_machines(run.environment, name) for name in ("torch", "processor")},
            "commits": run.environment.get("commits"),
        }
        return cls(run.problem, tuple(results.rows()), said)

    def write(self, path: Path) -> None:
        """As JSON."""
        value = {"format": FORMAT, "problem": self.problem, "run": dict(self.run), "rows": list(self.rows)}
        storage.write_json(path, value)

    @property
    def methods(self) -> dict[str, Mapping[str, Any]]:
        """Row by method, of those with a result."""
        return {str(row["method"]): row for row in self.rows if row.get("finished")}

    @property
    def tuned_with(self) -> str:
        """How the settings were chosen, in words; an entry from before there were finalists has none."""
        finalists, more = (int(self.run.get(name) or 0) for name in ("finalists", "more_seeds"))
        further = f", the best {finalists} of them with {more} seeds more" if finalists else ""
        return f"{self.run.get('tune', 0)} tried settings per row{further}"

    @property
    def is_tested(self) -> bool:
        """Whether a method was tested against the tuned sum: it takes three seeds."""
        against = [row.get("outcome_against_tuned_sum") for row in self.methods.values()]
        return any(outcome in TESTED for outcome in against)

    @property
    def limit(self) -> float | None:
        """What a method had to differ from the tuned sum by to be told from it, for the one in the middle.

        After Holm's correction for the methods that were not told; None where none was tested.
        """
        rows = [row for row in self.methods.values() if row.get("outcome_against_tuned_sum") in TESTED]
        p_values = [row.get("p_against_tuned_sum") for row in rows]
        untold = sum(p is not None and float(p) >= SIGNIFICANCE for p in p_values)
        intervals = [
            Interval(0.0, row.get("change_against_tuned_sum_half_width"), int(row["finished"]))
            for row in rows
        ]
        # The same setting as the tuned sum has a half width of 0, and no limit.
        known = [limit for each in intervals if (limit := told_from(each, max(untold, 1)))]
        return median(known) if known else None

    @property
    def at_the_end(self) -> str:
        """Which methods might be better with a rate that was not tried, in a sentence; empty for none."""
        names = [name for name, row in self.methods.items() if row.get("rate_at_the_end")]
        said = "have a learning rate" if len(names) > 1 else "has a learning rate"
        beyond = "at the end of what was tried; a better one may lie beyond"
        return f"{listed(names)} {said} {beyond}." if names else ""

    @property
    def has_single_tasks(self) -> bool:
        """Whether losses were trained alone, too."""
        return any(row.get("delta_m") is not None for row in self.rows)

    @property
    def trade_off(self) -> dict[str, tuple[float, ...]]:
        """Method -> its mean change against equal weights in every metric, + is better.

        Nothing for one metric, without equal weights, or where these have a 0, to which nothing is relative.
        """
        directions: Mapping[str, bool] = self.run.get("metrics") or {}
        baseline = [row for row in self.methods.values() if row.get("outcome") == "baseline"]
        if len(directions) < 2 or not baseline or not all(baseline[0].get(name) for name in directions):
            return {}
        complete = {
            method: row
            for method, row in self.methods.items()
            if all(row.get(name) is not None for name in directions)
        }
        return {
            method: tuple(
                relative_change(row, baseline[0], {name: higher}) for name, higher in directions.items()
            )
            for method, row in complete.items()
        }

    @property
    def front(self) -> frozenset[str]:
        """The methods that no other one equals or beats in every metric on average: the Pareto front."""
        points = self.trade_off
        if not points:
            return frozenset()
        on = nondominated(np.array(list(points.values())))
        return frozenset(method for method, is_on in zip(points, on, strict=True) if is_on)

    def gain(self, method: str) -> float | None:
        """Mean change against equal weights; 0 for these themselves, None without a result."""
        row = self.methods.get(method)
        if row is None:
            return None
        change = row.get("change")
        return 0.0 if row.get("outcome") == "baseline" else None if change is None else float(change)


def read_entries(folder: Path) -> list[Entry]:
    """Every entry of a folder, by problem.

    Raises:
        StorageError: a file is damaged.

    """
    entries = []
    for path in sorted(folder.glob("*.json")):
        known = storage.read_json(path) or {}
        try:
            if known["format"] != FORMAT:
                raise checks.run_of_other_format(path, known["format"], FORMAT)
            rows = tuple(dict(row) for row in known["rows"])
            entries.append(Entry(str(known["problem"]), rows, dict(known["run"])))
        except (KeyError, TypeError, ValueError) as error:
            raise checks.damaged(path, error) from error
    return entries


@dataclass(frozen=True)
class Standing:
    """One method over all problems: its mean rank (1 is best), median changes, how often it won or lost.

    ``better`` and ``worse`` are problems where it differs from equal weights beyond noise, ``above`` and
    ``below`` from the tuned sum. Changes are medians over its problems, with intervals of the sign test;
    ``step_time`` is the geometric mean.
    """

    method: str
    problems: int
    mean_rank: float | None
    better: int = 0
    worse: int = 0
    above: int = 0
    below: int = 0
    change: Median | None = None
    change_against_tuned_sum: Median | None = None
    delta_m: Median | None = None
    step_time: float | None = None


@dataclass(frozen=True)
class Board:
    """All entries together.

    Attributes:
        entries: by problem.
        standings: best mean rank first; methods that are not on all problems have none and come last.
        p: of Friedman's test that all methods rank alike; None with too few problems or methods.
        critical_difference: of mean ranks, at 5 %; None likewise.

    """

    entries: tuple[Entry, ...]
    standings: tuple[Standing, ...]
    p: float | None = None
    critical_difference: float | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Board:
        """Rank, test and count."""
        entries = tuple(entries)
        names = list(dict.fromkeys(method for entry in entries for method in entry.methods))
        common = [name for name in names if all(entry.gain(name) is not None for entry in entries)]
        ranks = _ranks([[float(entry.gain(name) or 0.0) for name in common] for entry in entries])
        means = {
            name: sum(row[place] for row in ranks) / len(ranks) for place, name in enumerate(common) if ranks
        }
        standings = [_standing(name, entries, means.get(name)) for name in names]
        standings.sort(key=lambda each: (each.mean_rank is None, each.mean_rank or 0.0))
        enough = len(common) > 2 and len(entries) > 1
        return cls(
            entries,
            tuple(standings),
            _friedman(ranks) if enough else None,
            critical_difference(len(common), len(entries)) if enough else None,
        )

    @property
    def has_single_tasks(self) -> bool:
        """Whether they were on any problem."""
        return any(entry.has_single_tasks for entry in self.entries)

    @property
    def verdict(self) -> str:
        """The answer in a sentence or two, and how small a difference would have been seen."""
        tuned = [entry for entry in self.entries if entry.is_tested]
        if not tuned:
            return "No method was tested against a tuned sum yet, so that nothing can be said."
        beat = {
            entry.problem: [
                name
                for name, row in entry.methods.items()
                if name != TUNED_SUM and row.get("outcome_against_tuned_sum") == "better"
            ]
            for entry in tuned
        }
        won = {problem: names for problem, names in beat.items() if names}
        if len(tuned) == 1:
            problem, names = next(iter(beat.items()))
            beaten, who = ("is", f" ({', '.join(names)})") if names else ("is not", "")
            answer = f"On {problem} the tuned sum {beaten} beaten by more than noise{who}."
        elif not won:
            answer = (
                f"On none of {len(tuned)} problems does any method beat the tuned sum by more than noise."
            )
        else:
            beaten = f"on {len(won)} of {len(tuned)} problems ({_by_problem(won)})"
            answer = f"The tuned sum is beaten by more than noise {beaten}. {_corrected(tuned, won)}"
        return f"{answer} {_limits(tuned)}".rstrip()


def _of_machines(environment: Mapping[str, Any], name: str) -> str | None:
    """What the machines that trained a run say under this name; of one machine just that."""
    return ", ".join(dict.fromkeys(each[name] for each in machines_in(environment) if name in each)) or None


def _by_problem(methods: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{problem}: {', '.join(names)}" for problem, names in methods.items())


def _corrected(entries: Sequence[Entry], won: Mapping[str, Sequence[str]]) -> str:
    """What is left of ``won`` when the problems are corrected for, too: p times their number (Bonferroni)."""

    def is_left(entry: Entry, name: str) -> bool:
        p = entry.methods[name].get("p_against_tuned_sum")
        return p is not None and len(entries) * float(p) < SIGNIFICANCE

    left = {
        entry.problem: names
        for entry in entries
        if (names := [name for name in won.get(entry.problem, ()) if is_left(entry, name)])
    }
    if left == won:
        return "That holds when corrected for the number of problems, too."
    said = f"this is left: {_by_problem(left)}" if left else "nothing of it is left"
    return f"Corrected for the number of problems, too, {said}."


def _limits(entries: Sequence[Entry]) -> str:
    """How small a difference from the tuned sum is within the noise, for the method in the middle."""
    limits = {each.problem: limit for each in entries if (limit := each.limit) is not None}
    return f"With these seeds, {limits_text(limits, 'problem')}." if limits else ""


def _standing(name: str, entries: Sequence[Entry], mean_rank: float | None) -> Standing:
    rows = [entry.methods[name] for entry in entries if name in entry.methods]

    def over_problems(quantity: str) -> list[float]:
        return [float(row[quantity]) for row in rows if row.get(quantity) is not None]

    def middle(quantity: str) -> Median | None:
        found = over_problems(quantity)
        return median_interval(found) if found else None

    times = over_problems("step_time")
    return Standing(
        name,
        len(rows),
        mean_rank,
        better=sum(row.get("outcome") == "better" for row in rows),
        worse=sum(row.get("outcome") == "worse" for row in rows),
        above=sum(row.get("outcome_against_tuned_sum") == "better" for row in rows),
        below=sum(row.get("outcome_against_tuned_sum") == "worse" for row in rows),
        change=middle("change"),
        change_against_tuned_sum=middle("change_against_tuned_sum"),
        delta_m=middle("delta_m"),
        step_time=geometric_mean(times) if times else None,
    )


def _ranks(gains: Sequence[Sequence[float]]) -> list[list[float]]:
    """Per problem, 1 for the largest gain; equal gains share their mean rank."""
    from scipy.stats import rankdata

    return [rankdata([-gain for gain in row]).tolist() for row in gains if row]


def _friedman(ranks: Sequence[Sequence[float]]) -> float | None:
    from scipy.stats import friedmanchisquare

    p = float(friedmanchisquare(*zip(*ranks, strict=True)).pvalue)
    return p if math.isfinite(p) else None


def critical_difference(methods: int, problems: int) -> float:
    """Nemenyi's, at 5 %: mean ranks that are less apart may well be equal."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - SIGNIFICANCE, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * problems))
