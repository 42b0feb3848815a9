"""Statistics of a comparison: intervals over seeds, paired tests against a baseline, ranks, and words.

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
    smallest_is: str = ""


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
        return {"smallest": at_least, "smallest_is": f"the {percent(at_least, signed=False)} asked for"}
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


# -- words -------------------------------------------------------------------------------------------------


def percent(fraction: float, *, signed: bool = True, digits: int = 1) -> str:
    """``0.0123`` -> ``+1.2%``, with a true minus sign."""
    text = f"{abs(100 * fraction):.{digits}f}"
    sign = "" if float(text) == 0 else "−" if fraction < 0 else "+" if signed else ""
    return f"{sign}{text}%"


def size_text(fraction: float) -> str:
    """``0.123`` -> ``12%``: no more digits than the size of a difference needs."""
    return percent(fraction, signed=False, digits=0 if fraction >= 0.1 else 1 if fraction >= 0.001 else 2)


def percent_digits(interval: Interval) -> int:
    """How many digits of a relative change its interval gives a meaning to."""
    size = abs(interval.mean) if interval.half_width is None else interval.half_width
    return 1 if size >= 0.001 else 2


def p_text(p: float) -> str:
    """``0.0004`` -> ``p < 0.001``; otherwise two digits that matter."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def baseline_words(baseline: str) -> str:
    """The baseline in a sentence: ``equal`` reads as "equal weights"."""
    return {"equal": "equal weights", "tuned sum": "the tuned sum"}.get(baseline, baseline)


def explain(row: Comparison, baseline: str, planned: int, reason: str | None = None) -> str:
    """One plain sentence about one arm.

    Args:
        row: its comparison.
        baseline: the baseline's name.
        planned: how many seeds were planned.
        reason: why it has fewer finished trials than planned, as a clause ("seed 3 diverged").

    """
    against = baseline_words(baseline)
    done = len(row.seeds)
    missing = f"; {done} of {planned} seeds finished: {reason}" if reason and done < planned else ""
    if not done:
        return f"{row.arm}: no result, {reason or 'no trial has finished'}."
    if row.outcome == "baseline":
        return f"{row.arm}: what the others are compared with{missing}."
    if row.change is None:
        why = next(iter(row.undefined.values()), row.test.reason)
        return f"{row.arm}: cannot be compared with {against}, {why}{missing}."
    for why in dict.fromkeys(row.undefined.values()):
        seeds = [str(seed) for seed, its in row.undefined.items() if its == why]
        missing += f"; without seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {why}"
    digits = percent_digits(row.change)
    change = f"{row.arm}: {percent(row.change.mean, digits=digits)} against {against}"
    if row.change.low is None or row.change.high is None:
        return f"{change} on one seed, which says nothing about noise{missing}."
    low, high = percent(row.change.low, digits=digits), percent(row.change.high, digits=digits)
    over = f", 95% interval {low} to {high} over {row.change.count} seeds"
    if row.test.adjusted is None and row.outcome != "no difference":
        return f"{change}{over}: not tested, {row.test.reason}{missing}."
    if row.test.p == 1 and row.test.reason is not None:
        return f"{row.arm}: {row.test.reason} to {against}, {row.change.count} seeds{missing}."
    if row.outcome == "no difference" or row.test.adjusted is None:
        less = f", less than {row.smallest_is}" if row.smallest_is else ""
        return f"{change}{over}: no difference{less}{missing}."
    p = p_text(row.test.adjusted)
    if row.outcome in ("better", "worse"):
        return f"{change}{over}: {row.outcome}, beyond noise ({p}){missing}."
    if row.test.p is not None and row.test.p < SIGNIFICANCE:
        alone = f"{p} corrected for the number of methods, {p_text(row.test.p)} alone"
        return f"{change}{over}: within noise ({alone}){missing}."
    return f"{change}{over}: within noise ({p}){missing}."


def verdict(rows: Sequence[Comparison], baseline: str, *, pending: int = 0, with_limits: bool = True) -> str:
    """The answer in one or two sentences.

    Args:
        rows: the comparisons, in the table's order.
        baseline: the baseline's name.
        pending: how many trials still have to run.
        with_limits: add how large a difference would have been seen.

    """
    against = baseline_words(baseline)
    others = [row for row in rows if row.outcome != "baseline"]
    trials = "1 trial" if pending == 1 else f"{pending} trials"
    so_far = f"So far, with {trials} still to run: " if pending else ""
    if not any(row.seeds for row in rows):
        return f"{so_far}no trial has finished." if pending else "No trial finished: there is no result."
    if not any(row.outcome == "baseline" and row.seeds for row in rows):
        return f"{so_far}{against} has no finished trial, so nothing can be compared with it."
    if not others:
        return f"{so_far}{'only' if so_far else 'Only'} {against} was run, so there is nothing to compare."
    if all(row.outcome in ("untested", "no result") for row in others) and any(
        row.test.pairs == 1 for row in others
    ):
        alone = "seed cannot tell a difference from noise"
        return f"{so_far}one {alone}." if so_far else f"One {alone}: run more (`--seeds 5`)."
    if all(row.outcome in ("untested", "no result") for row in others) and any(
        row.test.pairs == 2 for row in others
    ):
        two = "two seeds are too few for a verdict"
        return f"{so_far}{two}." if so_far else f"{two.capitalize()}: run more (`--seeds 5`)."
    better, worse, noise, same, untested, without = (
        [row.arm for row in others if row.outcome == outcome]
        for outcome in ("better", "worse", "noise", "no difference", "untested", "no result")
    )
    parts = []
    if better:
        parts.append(f"{_listed(better)} {_verb(better, 'beats', 'beat')} {against} beyond noise")
    if worse:
        than = "" if better else f" than {against}"
        parts.append(f"{_listed(worse)} {_verb(worse, 'is', 'are')} worse{than} beyond noise")
    if noise and parts:
        parts.append(f"{_listed(noise)} {_verb(noise, 'is', 'are')} within noise")
    elif noise:
        parts.append(
            f"{_listed(noise)} {_verb(noise, 'does', 'do')} not differ from {against} by more than noise"
        )
    if same:
        parts.append(f"{_listed(same)} {_verb(same, 'makes', 'make')} no difference")
    if untested:
        parts.append(f"{_listed(untested)} could not be tested")
    if without:
        parts.append(f"{_listed(without)} {_verb(without, 'has', 'have')} no result")
    sentence = so_far + "; ".join(parts) + "."
    noisy = {row.arm: row.change for row in others if row.outcome == "noise" and row.change}
    untold = sum(row.test.adjusted is not None and row.test.adjusted >= SIGNIFICANCE for row in others)
    limits = {arm: limit for arm, change in noisy.items() if (limit := told_from(change, untold))}
    if limits and with_limits:
        seeds = max(change.count for change in noisy.values())
        sentence += f" With {seeds} seeds, {limits_text(limits, 'method')}."
    return sentence


def limits_text(limits: Mapping[str, float], each: str) -> str:
    """How large a difference had to be: the median of what `told_from` gave, and both ends by name."""
    text = f"differences below {size_text(median(limits.values()))} could not be told from noise"
    least, most = min(limits, key=lambda name: limits[name]), max(limits, key=lambda name: limits[name])
    low, high = size_text(limits[least]), size_text(limits[most])
    return text if low == high else f"{text} (the median {each}; {low} for {least}, {high} for {most})"


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
