import math

import numpy as np
import pytest
from scipy import stats

from manyloss.lab.analysis.statistics import (
    Interval,
    compare,
    holm,
    mean_interval,
    mean_ranks,
    means_differ,
    median_interval,
    paired_test,
    relative_change,
    relative_time,
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
