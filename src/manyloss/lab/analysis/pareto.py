"""Does any method leave the front of the sum? Static weights as a front, methods as points, with intervals.

All values are relative to the baseline's mean, metric by metric, and signed so that more is better: 0.01 is
one per cent better. A point is a mean over seeds; its cloud are the seeds. Intervals come from resampling the
seeds, the same ones for all points, since trials of one seed share data and initial weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from manyloss.lab.analysis.statistics import (
    CONFIDENCE,
    FEWEST_PAIRS,
    Interval,
    mean_interval,
    relative_change,
)

#: Of the seeds; fewer where more than three metrics make a hypervolume slow.
RESAMPLES, FEWER_RESAMPLES = 1000, 200
#: Points on the straight line between two static weightings, ends included.
ON_A_LINE = 11

Where = Literal["beyond", "behind", "on", "untested"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampled:
    """A value and the interval of its resampled values; no interval with a single seed."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ParetoPoint:
    """One row of static weights or one method: its mean [K], its seeds [S, K]."""

    name: str
    mean: tuple[float, ...]
    seeds: tuple[tuple[float, ...], ...]
    #: Of static weights: whether no other one is at least as good in every metric.
    on_front: bool = False


@dataclass(frozen=True)
class BesideTheFront:
    """A method and the front of the sum.

    ``distance`` is how far it lies beyond the front (below 0: behind). ``gain`` is the hypervolume that it
    adds to the front's, as a share of it.
    """

    point: ParetoPoint
    distance: Resampled
    gain: Resampled
    where: Where


@dataclass(frozen=True)
class Pareto:
    """Two or more metrics, the sum's points, and the methods beside them."""

    metrics: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    #: What a value of 0 stands for, in each metric's own unit.
    baseline: tuple[float, ...]
    sums: tuple[ParetoPoint, ...]
    methods: tuple[BesideTheFront, ...]
    hypervolume: Resampled
    seeds: tuple[int, ...]

    @property
    def front(self) -> tuple[ParetoPoint, ...]:
        """The sum's points that no other one dominates, by the first metric."""
        return tuple(sorted((point for point in self.sums if point.on_front), key=lambda point: point.mean))


def pareto(
    sums: Mapping[str, Mapping[int, Sequence[float]]],
    methods: Mapping[str, Mapping[int, Sequence[float]]],
    baseline: Sequence[float],
    metrics: Sequence[str],
    higher_is_better: Sequence[bool],
    *,
    at_least: float = 0.0,
) -> Pareto | None:
    """Compare methods with the front of the sum.

    Args:
        sums: static weights -> seed -> values of the K metrics.
        methods: method -> seed -> values.
        baseline: the values of K metrics that all are relative to; a 0 leaves its metric in its own unit.
        metrics: their names.
        higher_is_better: their directions.
        at_least: the smallest distance that matters.

    Returns:
        None when no seed is finished by static weights. Only seeds that all of them have count, and a method
        takes part with those of them that it has; one with none is left out.

    """
    finite = {
        name: {s: v for s, v in rows.items() if all(map(math.isfinite, v))} for name, rows in sums.items()
    }
    finite = {name: rows for name, rows in finite.items() if rows}
    seeds = sorted(set.intersection(*(set(rows) for rows in finite.values()))) if finite else []
    if not seeds:
        return None
    unit = np.array([abs(value) or 1.0 for value in baseline])
    sign = np.array([1.0 if higher else -1.0 for higher in higher_is_better])

    def relative(rows: Mapping[int, Sequence[float]]) -> Array:
        """[S, K]"""
        return np.array([(np.asarray(rows[seed]) - np.asarray(baseline)) * sign / unit for seed in seeds])

    front = np.stack([relative(rows) for rows in finite.values()])  # [P, S, K]
    complete = {
        name: relative(rows)
        for name, rows in methods.items()
        if all(seed in rows and all(map(math.isfinite, rows[seed])) for seed in seeds)
    }
    everything = np.concatenate([front, *(rows[None] for rows in complete.values())])
    worst = everything.reshape(-1, len(metrics)).min(0)  # the hypervolume's reference point, for all draws
    resamples = RESAMPLES if len(metrics) <= 3 else FEWER_RESAMPLES
    draws = np.random.default_rng(0).integers(0, len(seeds), (resamples, len(seeds)))
    means = front.mean(1)
    drawn = front[:, draws].mean(2).transpose(1, 0, 2)  # [R, P, K]
    volumes = np.array([hypervolume(points, worst) for points in drawn])
    volume = hypervolume(means, worst)
    good = nondominated(means)
    found = []
    for name, rows in complete.items():
        point = rows.mean(0)
        points = rows[draws].mean(1)  # [R, K]
        distance = spread(float(beyond(point[None], means[None])[0]), beyond(points, drawn), len(seeds))
        more = [
            _share(hypervolume(np.vstack([each, mine]), worst), before)
            for each, mine, before in zip(drawn, points, volumes, strict=True)
        ]
        gain = spread(
            _share(hypervolume(np.vstack([means, point]), worst), volume), np.array(more), len(seeds)
        )
        found.append(
            BesideTheFront(_point(name, rows), distance, gain, _where(distance, len(seeds), at_least))
        )
    return Pareto(
        metrics=tuple(metrics),
        higher_is_better=tuple(higher_is_better),
        baseline=tuple(baseline),
        sums=tuple(_point(name, rows, bool(on)) for name, rows, on in zip(finite, front, good, strict=True)),
        methods=tuple(found),
        hypervolume=spread(volume, volumes, len(seeds)),
        seeds=tuple(seeds),
    )


def beyond(points: Array, fronts: Array) -> Array:
    """How far points lie beyond fronts: the additive epsilon indicator, with mixtures. [R]

    For a point m and a front F: ``min_{f in F} max_k (m_k - f_k)``. Above 0, m is better than every f by at
    least so much in some metric; below 0, some f is better in all. F holds the front's points and the
    straight lines between any two of them, so that a gap between two static weightings is no discovery: with
    two metrics this is their convex hull.

    Args:
        points: [R, K].
        fronts: [R, P, K].

    Source of the indicator: Zitzler et al., "Performance assessment of multiobjective optimizers", 2003.

    """
    count = fronts.shape[1]
    first, second = np.triu_indices(count, k=1)
    nearest: Array = (points[:, None] - fronts).max(2).min(1)
    for share in np.linspace(0, 1, ON_A_LINE)[1:-1] if count > 1 else ():
        mixed = share * fronts[:, first] + (1 - share) * fronts[:, second]
        nearest = np.minimum(nearest, (points[:, None] - mixed).max(2).min(1))
    return nearest


def nondominated(points: Array) -> Any:
    """[P] of bool: no other of the points [P, K] is at least as good in every metric and better in one."""
    at_least = (points[None] >= points[:, None]).all(2)
    better = (points[None] > points[:, None]).any(2)
    return ~np.any(at_least & better, axis=1)


def hypervolume(points: Array, reference: Array) -> float:
    """The volume that points [P, K] dominate above a reference point [K]; more is better in every metric.

    By slices: sorted by the last metric, each slice has the volume of the points above it in the others.
    """
    points = points[(points > reference).all(1)]
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max() - reference[0])
    points = points[np.argsort(-points[:, -1])]
    heights = points[:, -1] - np.append(points[1:, -1], reference[-1])
    if points.shape[1] == 2:
        return float((heights * (np.maximum.accumulate(points[:, 0]) - reference[0])).sum())
    return sum(
        float(height) * hypervolume(points[:count, :-1], reference[:-1])
        for count, height in enumerate(heights, start=1)
        if height > 0
    )


def spread(value: float, resampled: Array, seeds: int) -> Resampled:
    """The expanded percentile interval: at tails ``Phi(-sqrt(n / (n - 1)) t)`` in place of 2.5 %.

    Plain percentiles are too narrow for few seeds; this makes them as wide as a t-interval. Source: T.
    Hesterberg, "What teachers should know about the bootstrap", 2015.
    """
    if seeds < 2:
        return Resampled(value, None, None)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)
    tail = float(stats.norm.cdf(-math.sqrt(seeds / (seeds - 1)) * quantile))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Resampled(value, float(low), float(high))


def delta_m(
    values: Mapping[int, Mapping[str, float]],
    single: Mapping[int, Mapping[str, float]],
    higher_is_better: Mapping[str, bool],
) -> Interval | None:
    """The change against single-task training over seeds, + is better; None if no seed has all metrics.

    ``Delta_m = 1/K sum_k (-1)^{l_k} (M_k - S_k) / S_k``, with l_k = 1 where lower is better, M_k the method's
    metric and S_k that of the model trained on its task alone. Source: Maninis, Radosavovic and Kokkinos,
    "Attentive Single-Tasking of Multiple Tasks", CVPR 2019. (Papers since 2021 often turn the sign round.)
    """
    changes = [
        relative_change(values[seed], single[seed], higher_is_better)
        for seed in values
        if seed in single and set(higher_is_better) <= set(values[seed]) & set(single[seed])
    ]
    finite = [change for change in changes if math.isfinite(change)]
    return mean_interval(finite) if finite else None


def _point(name: str, rows: Array, on_front: bool = False) -> ParetoPoint:
    return ParetoPoint(
        name, tuple(rows.mean(0).tolist()), tuple(tuple(row) for row in rows.tolist()), on_front
    )


def _share(more: float, before: float) -> float:
    return (more - before) / before if before > 0 else 0.0


def _where(distance: Resampled, seeds: int, at_least: float) -> Where:
    if seeds < FEWEST_PAIRS or distance.low is None or distance.high is None:
        return "untested"
    if distance.low > 0 and distance.value >= at_least:
        return "beyond"
    if distance.high < 0 and -distance.value >= at_least:
        return "behind"
    return "on"
