"""Statistics of a comparison: intervals over seeds, paired tests against a baseline, ranks.

Every number is about seeds: one seed is one value, and a method is compared with the baseline on the
seeds that both have finished. The tests and quantiles are scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean, median
from typing import Any, Literal

from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05

#: seed -> metric name -> value
SeedValues = Mapping[int, Mapping[str, float]]

#: Fewer pairs than this have an interval, but no verdict.
FEWEST_PAIRS = 3

Outcome = Literal["baseline", "better", "worse", "noise", "no difference", "untested", "no result"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval ``mean ± half_width`` (None with a single value)."""

    mean: float
    half_width: float | None
    count: int

    @property
    def low(self) -> float | None:
        """The lower end."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """The upper end."""
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True)
class Median:
    """A median and the ends of its confidence interval (None with fewer than six values)."""

    median: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired t-test. ``p`` is None when there is nothing to test, and ``reason`` says why."""

    p: float | None
    pairs: int
    reason: str | None = None
    adjusted: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline.

    ``changes`` holds the mean relative change of every seed that both have; ``covered`` the metrics that
    it averages over (an arm that trains one task has fewer than the others).
    """

    arm: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]
    covered: tuple[str, ...]
    changes: Mapping[int, float]
    change: Interval | None
    test: PairedTest
    mean_rank: float | None
    step_time: float | None
    outcome: Outcome
    undefined: Mapping[int, str] = field(default_factory=dict)
    #: A change smaller than this is none: what one test example makes, or what the user asked for.
    smallest: float = 0.0
    smallest_is: Literal["", "one test example", "asked for"] = ""


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean and t-interval: ``mean ± t_{n-1} s / sqrt(n)``, s the sample standard deviation.

    Raises:
        ValueError: there are no values.

    """
    count = len(values)
    if count == 0:
        raise ValueError("an interval needs at least one value, received none: leave the cell empty instead.")
    mean = fmean(values)
    if count == 1:
        return Interval(mean, None, 1)
    try:
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    except OverflowError:  # values of 1e200, on the way to a divergence
        deviation = math.inf
    return Interval(mean, _quantile((1 + confidence) / 2, count - 1) * deviation / math.sqrt(count), count)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Median:
    """The median with the interval of the sign test, whatever the values' distribution.

    From the k-th smallest of n values to the k-th largest, with the largest k for which
    2 P(Bin(n, 1/2) < k) <= 1 - confidence.
    """
    found = sorted(values)
    k = 0
    while stats.binom.cdf(k, len(found), 0.5) <= (1 - confidence) / 2:
        k += 1
    low, high = (found[k - 1], found[-k]) if k else (None, None)
    return Median(median(found), low, high, len(found))


def rank_correlation(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Spearman's rank correlation of two quantities of the same runs.

    ``half_width`` is the longer side of Fisher's 95 % interval, with Bonett and Wright's (2000) error
    sqrt((1 + r^2 / 2) / (n - 3)) of z. Fewer than four runs, or a quantity that never changes, have none.
    """
    count = len(values)
    if len(set(values)) < 2 or len(set(others)) < 2:
        return Interval(0.0, None, count)
    r = float(stats.spearmanr(values, others).statistic)
    if count < 4:
        return Interval(r, None, count)
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + r**2 / 2) / (count - 3))
    z = math.atanh(max(-1 + 1e-9, min(1 - 1e-9, r)))
    return Interval(r, max(r - math.tanh(z - reach), math.tanh(z + reach) - r), count)


def means_differ(groups: Sequence[Interval]) -> float | None:
    """The p-value of all groups having one mean: the F-test of a one-way analysis of variance.

    Of means with their 95 % intervals over ``count`` values each. None for fewer than two groups, or where a
    group has no interval.
    """
    if len(groups) < 2 or any(each.half_width is None for each in groups):
        return None
    values = sum(each.count for each in groups)
    grand = math.fsum(each.count * each.mean for each in groups) / values
    between = math.fsum(each.count * (each.mean - grand) ** 2 for each in groups)
    within = math.fsum(
        (each.count - 1) * each.count * (half / _quantile((1 + CONFIDENCE) / 2, each.count - 1)) ** 2
        for each in groups
        if (half := each.half_width) is not None
    )
    if between <= 0 or within <= 0:
        return 1.0 if between <= 0 else 0.0
    freedom = len(groups) - 1, values - len(groups)
    return float(stats.f.sf((between / freedom[0]) / (within / freedom[1]), *freedom))


@cache
def _quantile(level: float, freedom: int) -> float:
    """Of the t-distribution; a report asks for the same one at every point of every curve."""
    return float(stats.t.ppf(level, freedom))


def relative_change(
    values: Mapping[str, float], baseline: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> float:
    """Mean over the metrics of ``±(value - baseline) / |baseline|``, signed so that + is better.

    Both sides must hold all metrics of ``higher_is_better``. A baseline of exactly 0 has no relative
    change (unless the value is 0 too, which is no change): the result is NaN then.
    """
    changes = []
    for name, higher in higher_is_better.items():
        difference = values[name] - baseline[name]
        if difference == 0:
            changes.append(0.0)
        elif baseline[name] == 0:
            return math.nan
        else:
            changes.append((difference if higher else -difference) / abs(baseline[name]))
    return fmean(changes) if changes else math.nan


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Two-sided paired t-test: are the differences (method minus baseline, by seed) 0 on average?

    One pair has no spread, and pairs that all differ by the same number have a spread of 0: both leave
    nothing to test against, so ``p`` is None. No difference on any seed gives p = 1.
    """
    count = len(differences)
    if count == 0:
        return PairedTest(None, 0, "no seed finished by both")
    if count == 1:
        return PairedTest(None, 1, "one seed has no spread to test against")
    if all(difference == 0 for difference in differences):
        return PairedTest(1.0, count, "identical on every seed")
    if count < FEWEST_PAIRS:
        return PairedTest(None, count, "two seeds are too few for a verdict")
    size = max(abs(difference) for difference in differences)
    # Below this the spread is rounding, and scipy warns of it.
    if max(differences) - min(differences) <= 1e-12 * size:
        return PairedTest(None, count, "the same difference on every seed: no spread to test against")
    return PairedTest(float(stats.ttest_1samp([d / size for d in differences], 0.0).pvalue), count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: ``max_{j<=i} min(1, (m - j + 1) p_(j))`` for the i-th smallest of m.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def told_from(interval: Interval, tests: int) -> float | None:
    """How far from 0 this mean would have to be to be told from it as the first of ``tests``.

    With the interval's spread: t_{n-1} s / sqrt(n) at 1 - 0.05 / (2 tests), as Holm's correction asks of the
    next of ``tests`` that it has not let through. None without a spread.
    """
    if not interval.half_width or not math.isfinite(interval.half_width):
        return None
    freedom = interval.count - 1
    wider = _quantile(1 - SIGNIFICANCE / (2 * tests), freedom) / _quantile((1 + CONFIDENCE) / 2, freedom)
    return interval.half_width * wider


def mean_ranks(
    means: Mapping[str, Mapping[str, float]], higher_is_better: Mapping[str, bool]
) -> dict[str, float]:
    """Mean over the metrics of each arm's rank (1 is best, ties share their mean rank).

    ``means``: arm -> metric -> mean over seeds. Only arms that have all the metrics are ranked.
    """
    ranked = [arm for arm, values in means.items() if all(name in values for name in higher_is_better)]
    if not ranked or not higher_is_better:
        return {}
    totals = dict.fromkeys(ranked, 0.0)
    for name, higher in higher_is_better.items():
        column = [-means[arm][name] if higher else means[arm][name] for arm in ranked]
        for arm, rank in zip(ranked, stats.rankdata(column, method="average"), strict=True):
            totals[arm] += float(rank)
    return {arm: total / len(higher_is_better) for arm, total in totals.items()}


def relative_time(times: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Median step time over the baseline's median; None when either has none."""
    if not times or not baseline or median(baseline) <= 0:
        return None
    return median(times) / median(baseline)


def compare(
    values: Mapping[str, SeedValues],
    higher_is_better: Mapping[str, bool],
    baseline: str,
    *,
    step_times: Mapping[str, Sequence[float]] | None = None,
    shown_only: Sequence[str] = (),
    resolution: Mapping[str, float] | None = None,
    at_least: float = 0.0,
) -> dict[str, Comparison]:
    """Compare every arm with the baseline.

    Args:
        values: arm -> seed -> metric -> value, of finished trials only. An arm with none is kept.
        higher_is_better: the metrics that count, with their direction.
        baseline: the arm that the others are compared with; it may have no finished trial.
        step_times: arm -> one step time per finished trial.
        shown_only: further metrics that get an interval and count in nothing.
        resolution: by metric, the smallest difference of a mean that it can show (one test example of n).
        at_least: the smallest relative change that matters; a smaller one is "no difference".

    Not-finite values are left out, like a metric that was not measured. Holm's correction is over all
    arms that can be tested.

    """
    times = step_times or {}
    finite = {
        arm: {
            seed: {name: value for name, value in row.items() if math.isfinite(value)}
            for seed, row in rows.items()
        }
        for arm, rows in values.items()
    }
    intervals = {
        arm: {
            name: mean_interval(column)
            for name in (*higher_is_better, *shown_only)
            if (column := [row[name] for row in rows.values() if name in row])
        }
        for arm, rows in finite.items()
    }
    ranks = mean_ranks(
        {arm: {name: cell.mean for name, cell in row.items()} for arm, row in intervals.items()},
        higher_is_better,
    )
    base = finite.get(baseline, {})
    compared: dict[str, Comparison] = {}
    for arm, rows in finite.items():
        covered = {
            name: higher
            for name, higher in higher_is_better.items()
            if name in intervals[arm] and name in intervals.get(baseline, {})
        }
        changes: dict[int, float] = {}
        undefined: dict[int, str] = {}
        for seed in rows if covered and arm != baseline else ():
            if seed not in base:
                continue
            unmeasured = [name for name in covered if name not in rows[seed] or name not in base[seed]]
            if unmeasured:
                undefined[seed] = f"{unmeasured[0]} is not finite"
                continue
            change = relative_change(rows[seed], base[seed], covered)
            if math.isfinite(change):
                changes[seed] = change
            else:
                zero = next(name for name in covered if base[seed][name] == 0)
                undefined[seed] = f"{zero} of {baseline} is 0, and nothing is relative to 0"
        if arm == baseline:
            test = PairedTest(None, 0, "the baseline itself")
        else:
            test = paired_test(list(changes.values()))
        compared[arm] = Comparison(
            arm=arm,
            seeds=tuple(rows),
            metrics=intervals[arm],
            covered=tuple(covered),
            changes=changes,
            change=mean_interval(list(changes.values())) if changes else None,
            test=test,
            mean_rank=ranks.get(arm),
            step_time=relative_time(times.get(arm, ()), times.get(baseline, ())),
            outcome="baseline" if arm == baseline else "untested" if rows else "no result",
            undefined=undefined,
            **_smallest(covered, intervals.get(baseline, {}), resolution or {}, at_least),
        )
    return _corrected(compared)


def _smallest(
    covered: Mapping[str, bool],
    baseline: Mapping[str, Interval],
    resolution: Mapping[str, float],
    at_least: float,
) -> dict[str, Any]:
    """What one test example more makes of the mean relative change, or ``at_least`` if that is more."""
    steps = [
        resolution[name] / abs(baseline[name].mean)
        for name in covered
        if resolution.get(name) and name in baseline and baseline[name].mean
    ]
    # A metric without such a step can show any difference.
    one_example = sum(steps) / len(covered) if covered and len(steps) == len(covered) else 0.0
    if at_least > one_example:
        return {"smallest": at_least, "smallest_is": "asked for"}
    return {"smallest": one_example, "smallest_is": "one test example" if one_example else ""}


def _corrected(compared: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The comparisons with Holm's p-values, and the outcome these give."""
    tested = {arm: row.test.p for arm, row in compared.items() if row.test.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    result = dict(compared)
    for arm, row in compared.items():
        p = adjusted.get(arm)
        if row.change is None or row.test.pairs < FEWEST_PAIRS:
            outcome = row.outcome
        elif row.change.mean == 0 or abs(row.change.mean) < row.smallest * (1 - 1e-9):
            outcome = "no difference"
        elif p is None:
            outcome = row.outcome
        elif p < SIGNIFICANCE:
            outcome = "better" if row.change.mean > 0 else "worse"
        else:
            outcome = "noise"
        result[arm] = replace(row, test=replace(row.test, adjusted=p), outcome=outcome)
    return result
