"""The verdict of a paper's claim stands first in the report of its run."""

from __future__ import annotations

import json

import pytest

from manyloss.lab.checks import StorageError
from manyloss.lab.reports.page import write_report
from tests.lab.run_folders import make_run

KEPT = {
    "says": "Ours is <better>.",
    "paper": "Someone (2020), table 1",
    "rule": "abc",
    "scale": "small",
    "papers_setting": False,
    "verdict": "on substitute: unclear",
    "why": ["Too few seeds: about 12 seeds would tell."],
    "seeds": 1,
    "checks": [
        {
            "says": "better than equal",
            "outcome": "unclear",
            "value": 0.51234,
            "against": 0.5,
            "difference": 0.01234,
            "half_width": None,
        }
    ],
}


def page_of(folder, kept):
    (folder / "claim.json").write_text(json.dumps(kept), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def test_verdict_reason_and_checks_are_shown(tmp_path):
    folder = make_run(tmp_path / "run", arms=("equal", "mgda"), seeds=1, epochs=1)
    assert "The claim" not in write_report(folder).read_text(encoding="utf-8")
    page = page_of(folder, KEPT)
    assert page.index("The claim") < page.index("The answer")
    for text in (
        "Ours is &lt;better&gt;.",
        "On substitute: unclear",
        "about 12 seeds would tell",
        "? better than equal",
        "<td>0.5123</td><td>0.5</td><td>+0.0123</td>",
        "not the paper&#39;s setting, scale small, 1 seed, rule abc",
    ):
        assert text in page


def test_a_damaged_verdict_is_said(tmp_path):
    folder = make_run(tmp_path / "run", arms=("equal", "mgda"), seeds=1, epochs=1)
    with pytest.raises(StorageError, match=r"claim.json"):
        page_of(folder, {**KEPT, "checks": [{}]})
