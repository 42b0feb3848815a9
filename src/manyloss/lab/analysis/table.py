"""The table of a comparison: its rows and its words. `cells` has the numbers as text, `terminal` draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from manyloss.lab.analysis.beside import front_words, pareto_of, single_task_of, tuning_words
from manyloss.lab.analysis.pareto import Pareto
from manyloss.lab.analysis.results import MetricColumn, RunRecord, TrialRecord, read_run
from manyloss.lab.analysis.sentences import explain, verdict
from manyloss.lab.analysis.statistics import Comparison, Interval, Outcome, compare
from manyloss.lab.analysis.tuning import TunedRow

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
                remarks_of([trial for trial in trials if trial.status not in _ENDINGS]),
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
    return (*_with_seeds(said, trials), *warnings_of(trials))


def warnings_of(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """What warned in training and how often, with the seeds where they differ."""
    said: dict[str, list[int]] = {}
    for warning in dict.fromkeys(warning for trial in trials for warning in trial.warnings):
        counts = {trial.seed: count for trial in trials if (count := trial.warnings.get(warning))}
        fewest, most = min(counts.values()), max(counts.values())
        often = "once" if most == 1 else f"{fewest if fewest == most else f'{fewest} to {most}'} times"
        said[f"{warning} (warned {often} in training)"] = list(counts)
    return _with_seeds(said, trials)


def _with_seeds(said: Mapping[str, Sequence[int]], trials: Sequence[TrialRecord]) -> tuple[str, ...]:
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
