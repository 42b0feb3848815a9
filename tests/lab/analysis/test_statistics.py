import math

import numpy as np
import pytest
from scipy import stats

from manyloss.lab.analysis.statistics import (
    Comparison,
    Interval,
    PairedTest,
    compare,
    explain,
    holm,
    mean_interval,
    mean_ranks,
    means_differ,
    median_interval,
    paired_test,
    percent,
    relative_change,
    relative_time,
    told_from,
    verdict,
)

NOTHING = "so nothing can be compared with it."
NO_SPREAD = "the same difference on every seed: no spread to test against"
UP = {"left": True, "right": True}


def seeds(*rows, names=("left", "right")):
    return {seed: dict(zip(names, row, strict=True)) for seed, row in enumerate(rows)}


BASE = seeds((0.80, 0.50), (0.82, 0.52), (0.78, 0.51), (0.81, 0.49))


def shifted(*factors):
    return {
        seed: {name: value * (1 + factor) for name, value in BASE[seed].items()}
        for seed, factor in enumerate(factors)
    }


# -- intervals ---------------------------------------------------------------------------------------------


def test_interval_is_the_t_interval():
    values = [0.81, 0.79, 0.84, 0.80, 0.83]
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert interval.low == pytest.approx(low, rel=1e-12)
    assert interval.high == pytest.approx(high, rel=1e-12)
    assert interval.count == 5


def test_interval_by_hand():
    # mean 2, s = 1, n = 3, t_2(0.975) = 4.302653
    assert mean_interval([1.0, 2.0, 3.0]).half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval():
    interval = mean_interval([0.5])
    assert (interval.mean, interval.half_width, interval.low, interval.high) == (0.5, None, None, None)


def test_means_differ_is_scipys_analysis_of_variance():
    rng = np.random.default_rng(0)
    for sizes in ((3, 3, 3), (2, 5, 9, 4), (20, 3)):
        groups = [rng.normal(0.3 * place, 1 + 0.1 * place, size) for place, size in enumerate(sizes)]
        expected = stats.f_oneway(*groups).pvalue
        assert means_differ([mean_interval(list(group)) for group in groups]) == pytest.approx(expected)
    flat = [Interval(1.0, 0.0, 3), Interval(2.0, 0.0, 3)]
    assert means_differ(flat) == 0.0
    assert means_differ(flat[:1] * 2) == 1.0
    assert means_differ(flat[:1]) is None
    assert means_differ([Interval(1.0, None, 1), *flat]) is None


@pytest.mark.parametrize(("count", "k"), [(1, 0), (5, 0), (6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6)])
def test_median_interval_covers_what_the_sign_test_says(count, k):
    """k is that of Conover's table of the sign test at 5 %, two-sided."""
    values = [float(place) for place in range(1, count + 1)]
    found = median_interval(values[::-1])
    assert found.median == (count + 1) / 2
    assert (found.low, found.high) == ((k, count + 1 - k) if k else (None, None))
    if k:
        covered = scipy_sign_test_interval(values)
        assert (found.low, found.high) == covered


def scipy_sign_test_interval(values):
    """The hypothetical medians between values that the two-sided binomial test does not reject."""
    kept = [
        middle
        for middle in np.arange(0.5, len(values) + 1)
        if stats.binomtest(int(sum(value > middle for value in values)), len(values)).pvalue > 0.05
    ]
    return kept[0] - 0.5, kept[-1] + 0.5


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="at least one value, received none"):
        mean_interval([])


# -- relative change ---------------------------------------------------------------------------------------


def test_relative_change_by_hand():
    change = relative_change(
        {"accuracy": 0.88, "error": 1.9}, {"accuracy": 0.80, "error": 2.0}, {"accuracy": True, "error": False}
    )
    assert change == pytest.approx((0.1 + 0.05) / 2)


def test_relative_change_is_signed_by_direction_and_by_the_size_of_a_negative_baseline():
    assert relative_change({"m": -1.0}, {"m": -2.0}, {"m": True}) == pytest.approx(0.5)
    assert relative_change({"m": -1.0}, {"m": -2.0}, {"m": False}) == pytest.approx(-0.5)


def test_relative_change_to_zero_is_undefined_unless_nothing_changed():
    assert math.isnan(relative_change({"m": 0.1}, {"m": 0.0}, {"m": True}))
    assert relative_change({"m": 0.0}, {"m": 0.0}, {"m": True}) == 0.0


# -- tests -------------------------------------------------------------------------------------------------


def test_paired_test_is_scipys_related_t_test():
    ours, baseline = [0.81, 0.83, 0.79, 0.84], [0.80, 0.79, 0.80, 0.80]
    result = paired_test([a - b for a, b in zip(ours, baseline, strict=True)])
    assert result.p == pytest.approx(stats.ttest_rel(ours, baseline).pvalue, rel=1e-9)
    assert result.pairs == 4


@pytest.mark.parametrize(
    ("differences", "p", "reason"),
    [
        ([], None, "no seed finished by both"),
        ([0.1], None, "one seed has no spread to test against"),
        ([0.0, 0.0, 0.0], 1.0, "identical on every seed"),
        ([0.1, 0.1, 0.1], None, "the same difference on every seed: no spread to test against"),
        (
            [0.1, 0.1 + 1e-17, 0.1 - 1e-17],
            None,
            "the same difference on every seed: no spread to test against",
        ),
    ],
)
def test_what_cannot_be_tested_says_why(differences, p, reason):
    result = paired_test(differences)
    assert (result.p, result.reason) == (p, reason)


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e200])
def test_paired_test_does_not_depend_on_units(scale):
    differences = [0.1, 0.3, -0.05, 0.2]
    assert paired_test([scale * d for d in differences]).p == pytest.approx(paired_test(differences).p)


def test_holm_by_hand():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.5 * 1; then running maximum
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_finds_what_bonferroni_finds_and_never_less_than_the_raw_p():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(size=7).tolist()
        adjusted = holm(p)
        for raw, ours in zip(p, adjusted, strict=True):
            assert raw <= ours <= min(1.0, 7 * raw)
        order = np.argsort(p)
        assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


# -- ranks and times ---------------------------------------------------------------------------------------


def test_mean_ranks_share_ties_and_follow_directions():
    means = {
        "a": {"accuracy": 0.9, "error": 1.0},
        "b": {"accuracy": 0.9, "error": 3.0},
        "c": {"accuracy": 0.5, "error": 2.0},
        "one task": {"accuracy": 0.99},
    }
    ranks = mean_ranks(means, {"accuracy": True, "error": False})
    assert ranks == {"a": (1.5 + 1) / 2, "b": (1.5 + 3) / 2, "c": (3 + 2) / 2}


def test_relative_time_is_a_ratio_of_medians():
    assert relative_time([2.0, 3.0, 100.0], [1.0, 2.0, 2.0]) == 1.5
    assert relative_time([], [1.0]) is None
    assert relative_time([1.0], []) is None


# -- comparisons -------------------------------------------------------------------------------------------


def test_compare_pairs_seeds_and_corrects_over_methods():
    changes = {
        "up": (0.10, 0.11, 0.09, 0.10),
        "flat": (0.02, -0.03, 0.01, 0.01),
        "down": (-0.2, -0.21, -0.19, -0.2),
    }
    compared = compare({"equal": BASE} | {arm: shifted(*d) for arm, d in changes.items()}, UP, "equal")
    raw = {arm: stats.ttest_1samp(d, 0.0).pvalue for arm, d in changes.items()}
    for arm, corrected in zip(raw, holm(list(raw.values())), strict=True):
        assert compared[arm].change.mean == pytest.approx(np.mean(changes[arm]))
        assert compared[arm].test.p == pytest.approx(raw[arm])
        assert compared[arm].test.adjusted == pytest.approx(corrected)
    assert [compared[arm].outcome for arm in ("equal", "up", "flat", "down")] == [
        "baseline",
        "better",
        "noise",
        "worse",
    ]
    assert compared["equal"].change is None


def test_only_pairs_that_exist_count():
    values = {"equal": BASE, "partly": {seed: shifted(0.1, 0.2, 0.3, 0.4)[seed] for seed in (1, 3)}}
    row = compare(values, UP, "equal")["partly"]
    assert list(row.changes) == [1, 3]
    assert row.change.mean == pytest.approx(0.3)
    assert row.metrics["left"].count == 2


def test_a_method_without_a_finished_trial_is_a_row():
    row = compare({"equal": BASE, "dead": {}}, UP, "equal")["dead"]
    assert (row.outcome, row.change, row.mean_rank, row.metrics) == ("no result", None, None, {})


def test_a_baseline_without_a_finished_trial_leaves_means_and_ranks():
    row = compare({"equal": {}, "alone": BASE}, UP, "equal")["alone"]
    assert row.outcome == "untested"
    assert row.mean_rank == 1.0
    assert row.change is None


def test_values_that_are_not_finite_are_left_out():
    broken = shifted(0.1, 0.1, 0.1, 0.1)
    broken[2]["left"] = math.nan
    row = compare({"equal": BASE, "broken": broken}, UP, "equal")["broken"]
    assert row.metrics["left"].count == 3
    assert list(row.changes) == [0, 1, 3]
    assert row.undefined == {2: "left is not finite"}


def test_an_arm_with_one_task_is_compared_on_that_task_and_not_ranked():
    single = {seed: {"left": values["left"] * 1.1} for seed, values in BASE.items()}
    row = compare({"equal": BASE, "single": single}, UP, "equal")["single"]
    assert row.covered == ("left",)
    assert row.change.mean == pytest.approx(0.1)
    assert row.mean_rank is None


def test_a_derived_metric_is_shown_and_counts_in_nothing():
    values = {
        arm: {seed: {**row, "both": 9.0 if arm == "a" else 1.0} for seed, row in rows.items()}
        for arm, rows in {"equal": BASE, "a": shifted(0.1, 0.12, 0.08, 0.1)}.items()
    }
    row = compare(values, UP, "equal", shown_only=["both"])["a"]
    assert row.metrics["both"].mean == 9.0
    assert row.change.mean == pytest.approx(0.1)


# -- words -------------------------------------------------------------------------------------------------


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
