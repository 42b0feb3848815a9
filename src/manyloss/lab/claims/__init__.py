"""Claim: a study, a paper's numbers, and the rule that turns results into a verdict.

Each claim is a file in ``rules/``, committed before its results. Results keep the rule's hash, and are judged
by no other rule. A rule holds a list of checks; each compares, over the seeds and paired by seed, an arm's
quantity with another arm's or with a number::

    [[checks]]
    says = "GradNorm beats equal weights"
    arm = "gradnorm"
    than = "equal"                      # an arm, or a number
    is = "lower"                        # or "higher", or "near" (with `within`)
    quantity = "sum of loss ratios"     # a test metric; `of` names another part of result.json

A check holds when the 95 % interval of the difference lies on its side, fails when it lies on the other side,
and is unclear otherwise. One seed has no interval: a check of one seed is unclear at best. Checks with
``only = "full"`` compare with the paper's own numbers, which nothing but the paper's setting can meet.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from manyloss.diagnostics.running import pair_name
from manyloss.lab import checks
from manyloss.lab.analysis.results import TrialRecord, read_trial
from manyloss.lab.analysis.statistics import Interval, mean_interval
from manyloss.lab.problem import Problem
from manyloss.lab.recipes import has_papers_data
from manyloss.lab.runs import storage

Outcome = Literal["holds", "fails", "unclear", "no result"]
Relation = Literal["lower", "higher", "near"]
RELATIONS = ("lower", "higher", "near")
#: Parts of a result that a rule may speak of.
PARTS = ("test", "validation", "mean_weights", "cosine_std", "cosine_std_first_epoch")


@dataclass(frozen=True)
class Check:
    """One sentence of a paper as a comparison."""

    says: str
    arm: str
    than: str | float
    relation: Relation
    quantity: str
    of: str = "test"
    #: How far apart two values may be that are "near"; for the others, how much of a difference counts.
    within: float = 0.0
    only: str | None = None


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: the recipe to run, which rows, what the paper found, and the checks."""

    name: str
    recipe: str
    claim: str
    paper: str
    arms: tuple[str, ...]
    checks: tuple[Check, ...]
    #: arm -> quantity -> the paper's number.
    paper_numbers: Mapping[str, Mapping[str, float]]
    rule: str


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


def all_claims() -> dict[str, Claim]:
    """Every claim by name, sorted."""
    folder = files("manyloss.lab.claims") / "rules"
    found = {}
    for item in folder.iterdir():
        if item.name.endswith(".toml"):
            claim = read_rule(item.name, item.read_bytes())
            found[claim.name] = claim
    return dict(sorted(found.items()))


def claim_named(name: str) -> Claim:
    """The claim of this name; an error that offers the closest one."""
    claims = all_claims()
    if name not in claims:
        raise checks.unknown_claim(name, claims)
    return claims[name]


def read_rule(file: str, content: bytes) -> Claim:
    """A claim from its rule file; the hash is of the file's bytes.

    Raises:
        LabError: the file is not TOML, or lacks something.

    """
    try:
        rule = tomllib.loads(content.decode())
        entries = [
            Check(
                says=entry["says"],
                arm=entry["arm"],
                than=entry["than"],
                relation=entry["is"],
                quantity=_quantity(entry),
                of=entry.get("of", "test"),
                within=float(entry.get("within", 0.0)),
                only=entry.get("only"),
            )
            for entry in rule["checks"]
        ]
        claim = Claim(
            name=file.removesuffix(".toml"),
            recipe=rule["recipe"],
            claim=rule["claim"],
            paper=rule["paper"],
            arms=tuple(rule["arms"]),
            checks=tuple(entries),
            paper_numbers=rule.get("paper_numbers", {}),
            rule=hashlib.sha256(content).hexdigest()[:16],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise checks.bad_rule(file, error) from error
    for entry in entries:
        unknown = {entry.arm, entry.than} - {*claim.arms} if isinstance(entry.than, str) else set()
        if entry.relation not in RELATIONS or entry.of not in PARTS or unknown:
            reason = f"check {entry.says!r} has is = {entry.relation!r} and unknown arms {sorted(unknown)}"
            raise checks.bad_rule(file, reason)
    return claim


def _quantity(entry: Mapping[str, Any]) -> str:
    """What is compared. Rules name a pair of losses "a, b"; records spell it as the recorder does."""
    quantity = str(entry["quantity"])
    if str(entry.get("of", "test")).startswith("cosine_std"):
        return pair_name(*quantity.split(", ", 1))
    return quantity


# -- judging ----------------------------------------------------------------------------------------------


def check_folder(claim: Claim, root: Path) -> None:
    """Refuse a folder whose results were made under another rule, or under none.

    Raises:
        LabError: it was.

    """
    study = storage.read_json(root / "study.json")
    if study is not None:
        then = study.get("settings", {}).get("rule")
        if then != claim.rule:
            raise checks.other_rule(root, str(then or "of no claim"), claim.rule)


def judge(claim: Claim, root: Path, problem: Problem, *, scale: str | None, seeds: Sequence[int]) -> Verdict:
    """Apply the rule to a run folder.

    Raises:
        LabError: the folder was made under another rule, or cannot be read.

    """
    check_folder(claim, root)
    results = {
        arm: {seed: trial for seed in seeds if (trial := read_trial(root, arm, seed)).status == "finished"}
        for arm in claim.arms
    }
    papers_setting = scale == "full" and has_papers_data(problem)
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
    )


def find(check: Check, results: Mapping[str, Mapping[int, TrialRecord]], seeds: int) -> Finding:
    """One check. A seed that one of the two arms did not finish leaves the check without a result."""
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
    """Arm -> quantity -> our mean over the seeds, for every test metric."""
    table: dict[str, dict[str, float]] = {}
    for arm in claim.arms:
        names = dict.fromkeys(name for trial in results[arm].values() for name in trial.test)
        values = {
            name: [t.test[name] for t in results[arm].values() if math.isfinite(t.test.get(name, math.nan))]
            for name in names
        }
        table[arm] = {name: mean_interval(each).mean for name, each in values.items() if each}
    return table


MARKS: Mapping[Outcome, str] = {"holds": "✓", "fails": "✗", "unclear": "?", "no result": "–"}


def lines_of(verdict: Verdict) -> list[str]:
    """The verdict for a terminal: every check with its numbers, our numbers beside the paper's, the word."""
    lines = [verdict.claim.claim, ""]
    for finding in verdict.findings:
        numbers = ""
        if finding.difference is not None and finding.value is not None and finding.against is not None:
            half = finding.difference.half_width
            spread = "" if half is None else f" ± {half:.3g}"
            numbers = (
                f": {finding.value:.4g} against {finding.against:.4g}, "
                f"difference {finding.difference.mean:+.3g}{spread}"
            )
        lines.append(f"{MARKS[finding.outcome]} {finding.check.says} ({finding.outcome}{numbers})")
    for arm, numbers_of_paper in verdict.claim.paper_numbers.items():
        own = verdict.measured.get(arm, {})
        cells = [
            f"{name} {own[name]:.3f} (paper {value:.3f})"
            for name, value in numbers_of_paper.items()
            if name in own
        ]
        if cells:
            lines.append(f"{arm}: {', '.join(cells)}")
    setting = "the paper's data at full scale" if verdict.papers_setting else "not the paper's setting"
    scale = "" if verdict.scale is None else f", scale {verdict.scale}"
    seeds = f"{verdict.seeds} seed{'' if verdict.seeds == 1 else 's'}"
    return [*lines, "", f"Verdict: {verdict.word} ({setting}{scale}, {seeds}, rule {verdict.claim.rule})."]


def record_of(verdict: Verdict, root: Path) -> dict[str, Any]:
    """What is kept of a verdict: small, with the rule's hash, the numbers, and where they come from."""
    study = storage.read_json(root / "study.json") or {}
    of_arm = {
        arm: {
            f"seed-{seed}": read_trial(root, arm, seed)
            for folder in sorted(storage.trial_folder(root, arm, 0).parent.glob("seed-*"))
            if (seed := int(folder.name.removeprefix("seed-"))) >= 0
        }
        for arm in verdict.claim.arms
    }
    everything = [storage.read_result(path.parent) for path in root.glob("trials/*/*/result.json")]
    cells = {arm: _cells(found) for arm, found in of_arm.items()}
    return {
        "format": 1,
        "claim": verdict.claim.name,
        "says": verdict.claim.claim,
        "paper": verdict.claim.paper,
        "rule": verdict.claim.rule,
        "scale": verdict.scale,
        "papers_setting": verdict.papers_setting,
        "verdict": verdict.word,
        "seeds": verdict.seeds,
        "checks": [
            {
                "says": finding.check.says,
                "outcome": finding.outcome,
                "value": finding.value,
                "against": finding.against,
                "difference": None if finding.difference is None else finding.difference.mean,
                "half_width": None if finding.difference is None else finding.difference.half_width,
            }
            for finding in verdict.findings
        ],
        "measured": verdict.measured,
        "paper_numbers": verdict.claim.paper_numbers,
        "words": {arm: _words(found) for arm, found in of_arm.items()},
        "cells": {arm: said for arm, said in cells.items() if said},
        "seconds": sum(float((result or {}).get("seconds") or 0) for result in everything),
        "settings": _without_places(study.get("settings", {})),
        "epochs": study.get("epochs"),
        "created": study.get("created"),
        "environment": study.get("environment", {}),
    }


def _words(trials: Mapping[str, TrialRecord]) -> list[str]:
    """What the final evaluations of one arm said: no robust accuracy is kept without its masking verdict."""
    return [f"{seed}: {remark}" for seed, trial in trials.items() for remark in trial.remarks]


def _cells(trials: Mapping[str, TrialRecord]) -> dict[str, list[str]]:
    """Column of words -> one word per seed of one arm."""
    said: dict[str, list[str]] = {}
    for trial in trials.values():
        for column, word in trial.words.items():
            said.setdefault(column, []).append(word)
    return said


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the folders of this machine."""
    source = settings.get("source") or {}
    options = {name: value for name, value in (source.get("options") or {}).items() if name != "data_root"}
    return {**settings, "source": {**source, "options": options}} if source else dict(settings)
