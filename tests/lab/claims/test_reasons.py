"""Why a verdict is what it is, on findings whose reason is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from manyloss.lab.analysis.statistics import Interval
from manyloss.lab.claims.judging import Finding
from manyloss.lab.claims.reasons import Late, kinds_of, reasons
from manyloss.lab.claims.rule import Check, claim_named

RESULTS = Path(__file__).parents[3] / "results"

PAPER = {"ours": {"accuracy": 0.92}, "theirs": {"accuracy": 0.90}}


def finding(outcome, mean, half, *, relation="higher", than="theirs", within=0.0, seeds=3):
    check = Check("ours is better", "ours", than, relation, "accuracy", within=within)
    return Finding(check, outcome, Interval(mean, half, seeds), 0.9, 0.9)


def test_a_check_that_fails_contradicts_the_paper_here():
    assert reasons([finding("fails", -0.1, 0.01)], PAPER) == (
        "Contradicted here: 1 check fails by more than noise, which more seeds would not change; another "
        "network, more data or longer training might.",
    )
    (said,) = reasons([finding("fails", -0.1, 0.01)] * 2, PAPER, papers_setting=True)
    assert said.endswith("2 checks fail by more than noise, which more seeds would not change.")


def test_an_interval_wider_than_the_papers_difference_cannot_tell():
    (said,) = reasons([finding("unclear", 0.0, 0.05), finding("holds", 0.1, 0.05)], PAPER)
    assert "Too few seeds: in 1 of 1 unclear checks" in said
    seeds = int(said.split("about ")[1].split()[0])
    spread = 0.05 * 3**0.5 / stats.t.ppf(0.975, 2)
    half = {n: stats.t.ppf(0.975, n - 1) * spread / n**0.5 for n in (seeds - 1, seeds)}
    assert half[seeds] < 0.02 <= half[seeds - 1]


def test_the_range_of_seeds_is_said():
    (said,) = reasons([finding("unclear", 0.0, 0.03), finding("unclear", 0.0, 0.08)], PAPER)
    assert said.endswith("about 4 to 13 seeds would tell.")
    (said,) = reasons([finding("unclear", 0.0, 0.03), finding("unclear", 0.0, 30.0)], PAPER)
    assert said.endswith("about 4 to more than 1000 seeds would tell.")


def test_every_reason_has_a_word_for_a_table_and_the_heaviest_comes_first():
    findings = [
        finding("unclear", 0.0, 0.05),
        finding("unclear", 0.001, 0.005),
        finding("unclear", 0.0, 0.05, than="a row that the paper lacks"),
        finding("fails", -0.1, 0.01),
        finding("holds", 0.0, 0.0),
    ]
    said = reasons(findings, PAPER, late=Late(4, 5))
    assert kinds_of(said) == [
        "contradicted beyond noise",
        "nothing to compare",
        "smaller than in the paper",
        "too few seeds",
        "no number to compare with",
        "trained too little",
    ]
    assert kinds_of(reasons([], PAPER, late=Late(1, 5))) == []


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_reason_is_of_a_known_kind_or_an_arms_warning(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    arms = claim_named(record["claim"]).arms
    for sentence in record.get("why", ()):
        known = kinds_of([sentence]) or sentence.startswith("Trained long enough")
        assert known or any(sentence.startswith(f"{arm}: ") for arm in arms), sentence


def test_one_seed_has_no_spread():
    (said,) = reasons([finding("unclear", 0.0, None, seeds=1)], PAPER)
    assert said.endswith("more seeds might tell.")


def test_a_difference_that_would_have_been_seen_is_smaller_here():
    (said,) = reasons([finding("unclear", 0.001, 0.005)], PAPER)
    assert said.startswith("Smaller here than in the paper, if there at all: in 1 of 1")


@pytest.mark.parametrize("outcome", ["unclear", "holds", "fails"])
def test_rows_that_are_equal_in_every_seed_say_nothing_about_the_paper(outcome):
    (said,) = reasons([finding(outcome, 0.0, 0.0, relation="near", within=0.005)], PAPER)
    assert said.startswith("Nothing to compare: in 1 of 1 check both sides are equal in every seed")
    said = reasons([finding(outcome, 0.0, 0.0), finding("unclear", 0.001, 0.005)], PAPER)
    assert said[0].startswith("Nothing to compare: in 1 of 2 checks")
    assert said[1].startswith("Smaller here than in the paper, if there at all: in 1 of 1 unclear")


def test_one_seed_that_is_equal_may_be_chance():
    (said,) = reasons([finding("unclear", 0.0, None, seeds=1)], PAPER)
    assert said.startswith("Too few seeds")


@pytest.mark.parametrize("than", ["someone", 0.5])
def test_without_a_number_of_the_paper_it_is_not_known_what_to_look_for(than):
    paper = {} if than == 0.5 else PAPER
    (said,) = reasons([finding("unclear", 0.0, 0.05, than=than)], paper)
    assert said == "Not known how large: for 1 of 1 unclear checks the paper has no number."


def test_near_looks_for_what_it_allows():
    (said,) = reasons([finding("unclear", 0.0, 0.05, relation="near", within=0.01)], {})
    assert said.startswith("Too few seeds")


def test_trials_that_are_best_at_their_end_were_still_learning():
    late = Late.of([10, 10, 9, 5], 10)
    assert (late.late, late.trials) == (2, 4)
    (said,) = reasons([], {}, late=Late.of([10, 10, 10, 5], 10))
    assert said.startswith("Trained too little: 3 of 4 trials were best in the last tenth of their epochs")
    (said,) = reasons([], {}, late=late)
    assert said.startswith("Trained long enough for these seeds: 2 of 4")


def test_what_all_holds_needs_no_reason():
    assert reasons([finding("holds", 0.1, 0.01)], PAPER) == ()
