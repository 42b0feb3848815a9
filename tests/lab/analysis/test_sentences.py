"""The sentences about a comparison."""

import pytest

from manyloss.lab.analysis.sentences import explain, percent, verdict
from manyloss.lab.analysis.statistics import (
    Comparison,
    Interval,
    PairedTest,
    compare,
    told_from,
)
from tests.lab.analysis.test_statistics import BASE, UP, seeds, shifted


def sentences(values, **keywords):
    compared = compare(values, UP, "equal")
    return {arm: explain(row, "equal", 4, keywords.get(arm)) for arm, row in compared.items()}, verdict(
        list(compared.values()), "equal", pending=keywords.get("pending", 0)
    )


def test_words_for_better_worse_and_noise():
    told, answer = sentences(
        {
            "equal": BASE,
            "up": shifted(0.10, 0.11, 0.09, 0.10),
            "flat": shifted(0.02, -0.03, 0.01, 0.01),
            "down": shifted(-0.2, -0.21, -0.19, -0.2),
        }
    )
    assert told["up"] == (
        "up: +10.0% against equal weights, 95% interval +8.7% to +11.3% over 4 seeds: "
        "better, beyond noise (p < 0.001)."
    )
    assert told["flat"].endswith("within noise (p = 0.84).")
    assert "worse, beyond noise" in told["down"]
    assert answer == (
        "up beats equal weights beyond noise; down is worse beyond noise; flat is within noise. "
        "With 4 seeds, differences below 3.5% could not be told from noise."
    )


def test_the_limit_that_is_named_is_the_one_at_which_holm_lets_a_method_through():
    spread = {"a": (0.02, -0.03, 0.01, 0.01), "b": (0.1, -0.2, 0.1, 0.0), "c": (0.01, -0.01, 0.01, -0.01)}

    def with_b_at(mean):
        moved = tuple(each + mean for each in spread["b"])
        return compare(
            {"equal": BASE, **{arm: shifted(*each) for arm, each in (spread | {"b": moved}).items()}},
            UP,
            "equal",
        )

    limit = told_from(with_b_at(0.0)["b"].change, 3)
    assert limit == pytest.approx(with_b_at(0.0)["b"].change.half_width * 4.856657 / 3.182446, rel=1e-6)
    assert with_b_at(0.99 * limit)["b"].outcome == "noise"
    assert with_b_at(1.01 * limit)["b"].outcome == "better"
    assert verdict(list(with_b_at(0.0).values()), "equal").endswith(
        " With 4 seeds, differences below 5.4% could not be told from noise (the median method; "
        "2.8% for c, 34% for b)."
    )
    assert told_from(Interval(0.0, None, 1), 3) is None
    assert told_from(Interval(0.0, 0.0, 3), 3) is None


def test_words_when_nothing_stands_out():
    _, answer = sentences(
        {"equal": BASE, "a": shifted(0.02, -0.03, 0.01, 0.01), "b": shifted(-0.01, 0.02, -0.02, 0.03)}
    )
    assert answer.startswith("a and b do not differ from equal weights by more than noise.")


def test_words_for_what_only_correction_takes_away():
    many = {f"m{i}": shifted(0.02, -0.02, 0.01, -0.01 + 0.001 * i) for i in range(8)}
    told, _ = sentences({"equal": BASE, "near": shifted(0.02, 0.03, 0.01, 0.012), **many})
    assert "within noise (p = " in told["near"]
    assert "corrected for the number of methods, p = 0.029 alone" in told["near"]


def test_words_for_one_seed():
    told, answer = sentences({"equal": seeds((0.8, 0.5)), "a": seeds((0.88, 0.55))})
    assert told["a"] == "a: +10.0% against equal weights on one seed, which says nothing about noise."
    assert answer == "One seed cannot tell a difference from noise: run more (`--seeds 5`)."


def test_words_for_identical_results_and_for_a_difference_without_spread():
    told, _ = sentences({"equal": BASE, "same": BASE, "moved": shifted(0.25, 0.25, 0.25, 0.25)})
    assert told["same"] == "same: identical on every seed to equal weights, 4 seeds."
    assert "not tested, the same difference on every seed" in told["moved"]


def test_two_seeds_have_an_interval_and_no_verdict():
    told, answer = sentences({"equal": seeds((0.8, 0.5), (0.8, 0.5)), "a": seeds((0.88, 0.55), (0.89, 0.55))})
    assert "95% interval" in told["a"]
    assert told["a"].endswith("over 2 seeds: not tested, two seeds are too few for a verdict.")
    assert answer == "Two seeds are too few for a verdict: run more (`--seeds 5`)."


def test_a_seed_in_which_the_baseline_is_0_is_named():
    """The table counts its trial, the mean change cannot."""
    told, _ = sentences(
        {
            "equal": seeds((0.8, 0.5), (0.0, 0.5), (0.8, 0.5)),
            "a": seeds((0.88, 0.55), (0.88, 0.55), (0.89, 0.55)),
        }
    )
    assert told["a"].endswith(
        "over 2 seeds: not tested, two seeds are too few for a verdict; without seed 1: left of equal is 0, "
        "and nothing is relative to 0."
    )


def test_less_than_one_test_example_is_no_difference_whatever_p_says():
    values = {"equal": BASE, "a": shifted(0.0010, 0.0011, 0.0009, 0.0010)}
    assert compare(values, UP, "equal")["a"].outcome == "better"
    row = compare(values, UP, "equal", resolution={"left": 0.01, "right": 0.01})["a"]
    assert row.test.adjusted < 0.01
    assert row.outcome == "no difference"
    assert "no difference, less than one test example" in explain(row, "equal", 4)
    assert verdict([compare(values, UP, "equal")["equal"], row], "equal") == "a makes no difference."
    # One metric that counts no examples can show any difference.
    assert compare(values, UP, "equal", resolution={"left": 0.01})["a"].outcome == "better"


def test_the_smallest_change_that_matters_is_the_users():
    values = {"equal": BASE, "a": shifted(0.010, 0.011, 0.009, 0.010)}
    row = compare(values, UP, "equal", at_least=0.02)["a"]
    assert row.outcome == "no difference"
    assert "no difference, less than the 2.0% asked for" in explain(row, "equal", 4)
    assert compare(values, UP, "equal", at_least=0.01)["a"].outcome == "better"


def test_no_change_at_all_is_no_difference():
    row = compare({"equal": BASE, "same": BASE}, UP, "equal")["same"]
    assert row.outcome == "no difference"


def test_words_for_a_failed_method_give_the_reason():
    told, answer = sentences(
        {"equal": BASE, "dead": {}, "a": shifted(0.02, -0.03, 0.01, 0.01)}, dead="all 4 seeds diverged (nan)"
    )
    assert told["dead"] == "dead: no result, all 4 seeds diverged (nan)."
    assert "dead has no result" in answer


def test_words_for_missing_seeds_and_a_study_that_still_runs():
    partly = {seed: shifted(0.1, 0.11, 0.09, 0.1)[seed] for seed in (0, 1)}
    told, answer = sentences({"equal": BASE, "a": partly}, a="seeds 2, 3 diverged (nan)", pending=1)
    assert told["a"].endswith(
        "not tested, two seeds are too few for a verdict; 2 of 4 seeds finished: seeds 2, 3 diverged (nan)."
    )
    assert answer.startswith("So far, with 1 trial still to run: ")


@pytest.mark.parametrize(
    ("values", "pending", "answer"),
    [
        ({"equal": {}, "a": {}}, 8, "So far, with 8 trials still to run: no trial has finished."),
        ({"equal": {}, "a": {}}, 0, "No trial finished: there is no result."),
        (
            {"equal": {}, "a": BASE},
            0,
            "equal weights has no finished trial, so nothing can be compared with it.",
        ),
        ({"equal": BASE}, 0, "Only equal weights was run, so there is nothing to compare."),
    ],
)
def test_words_when_there_is_nothing_to_compare(values, pending, answer):
    assert sentences(values, pending=pending)[1] == answer


def test_words_for_a_baseline_of_zero():
    zero = seeds((0.0, 0.5), (0.0, 0.5))
    told, _ = sentences({"equal": zero, "a": seeds((0.1, 0.5), (0.1, 0.5))})
    assert (
        "cannot be compared with equal weights, left of equal is 0, and nothing is relative to 0" in told["a"]
    )


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0123, "+1.2%"), (-0.0123, "−1.2%"), (0.0, "0.0%"), (-0.0001, "0.0%"), (1.5, "+150.0%")],
)
def test_percent(fraction, text):
    assert percent(fraction) == text


def test_verdict_of_one_tested_method():
    row = Comparison(
        "a", (0, 1), {}, ("m",), {0: 0.1, 1: 0.1}, Interval(0.1, 0.01, 2), PairedTest(0.01, 2, None, 0.01),
        1.0, None, "better",
    )  # fmt: skip
    base = Comparison("base", (0, 1), {}, ("m",), {}, None, PairedTest(None, 0), 2.0, None, "baseline")
    assert verdict([base, row], "base") == "a beats base beyond noise."
