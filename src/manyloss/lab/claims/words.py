"""A verdict in words: for a terminal, and as the record that is kept in ``results/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from manyloss.lab.analysis.results import TrialRecord, read_trial
from manyloss.lab.analysis.statistics import Interval
from manyloss.lab.claims.judging import Finding, Outcome, Verdict
from manyloss.lab.claims.readings import Readings, record_of_readings
from manyloss.lab.claims.reasons import reasons
from manyloss.lab.claims.rule import claim_named
from manyloss.lab.runs import storage

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
    lines += ["", f"Verdict: {verdict.word} ({setting}{scale}, {seeds}, rule {verdict.claim.rule})."]
    lines += verdict.why
    if verdict.readings is None:
        return lines
    checks = [f"  {_over_readings(found)}: {says}" for says, found in verdict.readings.by_check().items()]
    return [*lines, f"The claim {verdict.readings}.", *checks]


def _over_readings(found: Readings) -> str:
    """One check over all readings."""
    by = ""
    if found.alike:
        by = ", alike but for noise"
    elif (most := found.decides_most()) is not None:
        by = f", mostly by {most[0]} ({most[1]:.0%})"
    return f"holds {found.count('holds')}, fails {found.count('fails')} of {len(found.judged)}{by}"


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
        "why": list(verdict.why),
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
        **({} if verdict.readings is None else {"readings": record_of_readings(verdict.readings)}),
        "along": {arm: seen for arm, found in of_arm.items() if (seen := _along(found))},
        "seconds": sum(float((result or {}).get("seconds") or 0) for result in everything),
        "settings": study.get("settings", {}),
        "epochs": study.get("epochs"),
        "created": study.get("created"),
        "environment": study.get("environment", {}),
    }


def check_cells(kept: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """A record's check for a table: mark, sentence, measured, against, difference with its interval."""
    value, against = ("–" if kept[name] is None else f"{kept[name]:.4g}" for name in ("value", "against"))
    difference = "–" if kept["difference"] is None else f"{kept['difference']:+.3g}"
    spread = "" if kept["half_width"] is None else f" ± {kept['half_width']:.2g}"
    return MARKS[kept["outcome"]], str(kept["says"]), value, against, difference + spread


def reasons_of_record(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a verdict that was kept without its reasons is what it is; none if its rule has changed since."""
    claim = claim_named(record["claim"])
    if claim.rule != record["rule"]:
        return ()
    known = {check.says: check for check in claim.checks}
    findings = [
        Finding(
            known[kept["says"]],
            kept["outcome"],
            None
            if kept["difference"] is None
            else Interval(kept["difference"], kept["half_width"], int(record["seeds"])),
            kept["value"],
            kept["against"],
        )
        for kept in record["checks"]
    ]
    return reasons(findings, claim.paper_numbers, papers_setting=bool(record["papers_setting"]))


def _words(trials: Mapping[str, TrialRecord]) -> list[str]:
    """What the final evaluations of one arm said: no robust accuracy is kept without its masking verdict."""
    return [f"{seed}: {remark}" for seed, trial in trials.items() for remark in trial.remarks]


def _along(trials: Mapping[str, TrialRecord]) -> dict[str, dict[str, float]]:
    """Quantity -> epoch -> mean over the finished seeds of one arm."""
    seen: dict[str, dict[str, list[float]]] = {}
    for trial in trials.values():
        for record in trial.epochs if trial.status == "finished" else ():
            for name, value in record.along.items():
                seen.setdefault(name, {}).setdefault(str(record.epoch), []).append(value)
    return {
        name: {epoch: float(f"{fmean(values):.4g}") for epoch, values in epochs.items()}
        for name, epochs in seen.items()
    }


def _cells(trials: Mapping[str, TrialRecord]) -> dict[str, list[str]]:
    """Column of words -> one word per seed of one arm."""
    said: dict[str, list[str]] = {}
    for trial in trials.values():
        for column, word in trial.words.items():
            said.setdefault(column, []).append(word)
    return said
