"""Judging: a rule and a run folder make a verdict."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from manyloss.lab.analysis.results import TrialRecord, read_trial
from manyloss.lab.analysis.statistics import Interval, mean_interval, rank_correlation
from manyloss.lab.analysis.table import warnings_of
from manyloss.lab.checks import LabError
from manyloss.lab.claims.reasons import Late, reasons
from manyloss.lab.claims.rule import SIGMA, Check, Claim
from manyloss.lab.problem import Problem
from manyloss.lab.recipes import has_papers_data
from manyloss.lab.runs import storage

if TYPE_CHECKING:
    from manyloss.lab.claims.readings import Readings

Outcome = Literal["holds", "fails", "unclear", "no result"]


@dataclass(frozen=True)
class Finding:
    """What became of one check."""

    check: Check
    outcome: Outcome
    difference: Interval | None
    value: float | None
    against: float | None


@dataclass(frozen=True)
class Verdict:
    """The findings of a claim, its verdict in the words of the claims table, and where it comes from."""

    claim: Claim
    scale: str | None
    papers_setting: bool
    seeds: int
    word: str
    findings: tuple[Finding, ...]
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: What became of the claim under other readings of the paper, where they were tried.
    readings: Readings | None = None
    #: Why the verdict is what it is, in sentences.
    why: tuple[str, ...] = ()


def check_folder(claim: Claim, root: Path) -> None:
    """Refuse a folder whose results were made under another rule, or under none.

    Raises:
        LabError: it was.

    """
    study = storage.read_json(root / "study.json")
    if study is not None:
        then = study.get("settings", {}).get("rule")
        if then != claim.rule:
            raise LabError(
                f"{root} was made under the rule {then or 'of no claim'}; the rule is now {claim.rule}. "
                "Results are only judged by the rule that was there before them: choose another folder with "
                "--out."
            )


def folders_of_other_claims(claim: Claim, root: Path) -> list[Path]:
    """Run folders beside ``root`` of other claims on the same recipe, begun when this claim's rule was there.

    Their trials, and those of their readings, are as good for this claim as trials of its own.
    """
    found, beside = [], root.absolute().parent
    for path in sorted([*beside.glob("*/study.json"), *beside.glob("*/readings/*/study.json")]):
        try:
            study = storage.read_json(path)
        except LabError:
            continue
        kept = {} if study is None else study.get("settings", {})
        there_before = kept.get("rules", {}).get(claim.name) == claim.rule
        if there_before and kept.get("claim") != claim.name:
            found.append(path.parent)
    return found


def judge(claim: Claim, root: Path, problem: Problem, *, scale: str | None, seeds: Sequence[int]) -> Verdict:
    """Apply the rule to a run folder.

    Raises:
        LabError: the folder was made under another rule, or cannot be read.

    """
    check_folder(claim, root)
    trials = {arm: {seed: read_trial(root, arm, seed) for seed in seeds} for arm in claim.arms}
    results = {
        arm: {seed: trial for seed, trial in of_arm.items() if trial.status == "finished"}
        for arm, of_arm in trials.items()
    }
    results |= {
        name: _combined([results[arm] for arm in parts], problem) for name, parts in claim.combined.items()
    }
    papers_setting = scale == "full" and not claim.on_substitute and has_papers_data(problem)
    findings = tuple(
        find(check, results, len(seeds))
        for check in claim.checks
        if check.only is None or (papers_setting and check.only == scale)
    )
    return Verdict(
        claim=claim,
        scale=scale,
        papers_setting=papers_setting,
        seeds=len(seeds),
        word=word_for(findings, papers_setting),
        findings=findings,
        measured=measured(claim, results),
        why=(
            *reasons(
                findings,
                claim.paper_numbers,
                late=None if problem.keep_last else _late([results[arm] for arm in claim.arms]),
                papers_setting=papers_setting,
            ),
            *problem.reasons({arm: [*trials.values()] for arm, trials in results.items()}),
            *(f"{arm}: {text}" for arm in claim.arms for text in warnings_of([*trials[arm].values()])),
        ),
    )


def _late(results: Iterable[Mapping[int, TrialRecord]]) -> Late:
    trials = [trial for found in results for trial in found.values() if trial.best_epoch is not None]
    epochs = max((record.epoch for trial in trials for record in trial.epochs), default=0)
    return Late.of([trial.best_epoch or 0 for trial in trials], epochs)


def _combined(parts: Sequence[Mapping[int, TrialRecord]], problem: Problem) -> dict[int, TrialRecord]:
    """The test metrics of several arms as those of one, seed by seed, with what is derived from them."""
    found = {}
    for seed in set.intersection(*(set(trials) for trials in parts)):
        test: dict[str, float] = {}
        for trials in parts:
            test |= trials[seed].test
        found[seed] = replace(parts[0][seed], test=test | problem.derive(test))
    return found


def find(check: Check, results: Mapping[str, Mapping[int, TrialRecord]], seeds: int) -> Finding:
    """One check. A seed that one of the two arms did not finish leaves the check without a result."""
    if check.along is not None:
        return _find_along(check, results, seeds)
    own = _values(check, results.get(check.arm, {}))
    other = (
        _values(check, results.get(check.than, {}))
        if isinstance(check.than, str)
        else dict.fromkeys(own, float(check.than))
    )
    both = [seed for seed in own if seed in other]
    if len(both) < seeds or not both:
        return Finding(check, "no result", None, None, None)
    difference = mean_interval([own[seed] - other[seed] for seed in both])
    return Finding(
        check,
        _outcome(check, difference),
        difference,
        mean_interval([own[seed] for seed in both]).mean,
        mean_interval([other[seed] for seed in both]).mean,
    )


def _find_along(check: Check, results: Mapping[str, Mapping[int, TrialRecord]], seeds: int) -> Finding:
    """The rank correlation of two quantities, over the seeds of one arm or over arms, against a number."""
    assert check.along is not None
    along = replace(check, quantity=check.along, of=check.along_of)
    points: list[tuple[float, float]] = []
    for arm in fnmatch.filter(results, check.arm):
        own, other = _values(check, results[arm]), _values(along, results[arm])
        both = [seed for seed in own if seed in other]
        if len(both) < seeds:
            return Finding(check, "no result", None, None, None)
        if "*" in check.arm:  # seeds of one arm are not independent of each other: one point an arm
            points.append((fmean(own[seed] for seed in both), fmean(other[seed] for seed in both)))
        else:
            points += [(own[seed], other[seed]) for seed in both]
    if not points:
        return Finding(check, "no result", None, None, None)
    correlation = rank_correlation(*zip(*points, strict=True))
    against = float(check.than)
    difference = replace(correlation, mean=correlation.mean - against)
    return Finding(check, _outcome(check, difference), difference, correlation.mean, against)


def _values(check: Check, trials: Mapping[int, TrialRecord]) -> dict[int, float]:
    found = {seed: getattr(trial, check.of).get(check.quantity, math.nan) for seed, trial in trials.items()}
    return {seed: float(value) for seed, value in found.items() if math.isfinite(value)}


def _outcome(check: Check, difference: Interval) -> Outcome:
    if difference.low is None or difference.high is None:
        return "unclear"
    low, high = difference.low, difference.high
    if check.relation == "near":
        if -check.within <= low and high <= check.within:
            return "holds"
        return "fails" if low > check.within or high < -check.within else "unclear"
    if check.relation == "lower":
        low, high = -high, -low
    if low > check.within:
        return "holds"
    return "fails" if high < check.within else "unclear"


def word_for(findings: Sequence[Finding], papers_setting: bool) -> str:
    """The verdict's words."""
    outcomes = [finding.outcome for finding in findings]
    if papers_setting:
        if all(outcome == "holds" for outcome in outcomes):
            return "reproduced"
        if "holds" in outcomes:
            return "partly"
        return "not reproduced" if "fails" in outcomes else "unclear"
    if "no result" in outcomes:
        return "on substitute: unclear"
    if all(outcome == "holds" for outcome in outcomes):
        return "on substitute: agrees"
    return f"on substitute: {'disagrees' if 'fails' in outcomes else 'unclear'}"


def measured(claim: Claim, results: Mapping[str, Mapping[int, TrialRecord]]) -> dict[str, dict[str, float]]:
    """Arm -> quantity -> our mean over the seeds: every test metric, and spreads that the paper has."""
    in_paper = {quantity for numbers in claim.paper_numbers.values() for quantity in numbers}
    table: dict[str, dict[str, float]] = {}
    for arm in claim.rows:
        values: dict[str, list[float]] = {}
        for trial in results[arm].values():
            sigmas = {SIGMA + pair: value for pair, value in trial.cosine_std.items()}
            known = {**trial.test, **{name: sigmas[name] for name in sigmas.keys() & in_paper}}
            for name, value in known.items():
                values.setdefault(name, []).extend([value] if math.isfinite(value) else [])
        table[arm] = {name: mean_interval(each).mean for name, each in values.items() if each}
    return table
