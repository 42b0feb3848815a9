"""The report's section of relations: a metric against another one, or against an option of the arms.

A run whose problem names none (`Problem.drawn_against`) has no such section.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from manyloss.lab.analysis.results import RunRecord, TrialRecord
from manyloss.lab.analysis.statistics import mean_interval, rank_correlation
from manyloss.lab.reports.looks import PALETTE, Panel, Style, draw, plain

HEIGHT = 320
#: What a metric may be drawn against that is neither a metric nor an option: the cosines' spread, over pairs.
FIRST_SIGMA = "sigma of the first epoch"


def draw_relations(run: RunRecord, styles: Mapping[str, Style]) -> list[Panel]:
    """A panel for each, of the finished trials that have both numbers."""
    panels = []
    for metric, other in run.drawn_against.items():
        found = {arm: _points(run.finished(arm), metric, other) for arm in run.arms}
        points = {arm: each for arm, each in found.items() if each}
        if points:
            is_option = all(
                other in trial.settings.get("options", {}) for arm in points for trial in run.finished(arm)
            )
            panels.append(
                _line(metric, other, points) if is_option else _scatter(metric, other, points, styles)
            )
    return panels


def _points(trials: Sequence[TrialRecord], metric: str, other: str) -> list[tuple[float, float]]:
    """(x, y) of each trial that has both."""
    found = []
    for trial in trials:
        x = trial.test.get(other, trial.settings.get("options", {}).get(other))
        if other == FIRST_SIGMA and trial.cosine_std_first_epoch:
            x = fmean(trial.cosine_std_first_epoch.values())
        y = trial.test.get(metric)
        if isinstance(x, int | float) and y is not None and math.isfinite(x) and math.isfinite(y):
            found.append((float(x), float(y)))
    return found


def _scatter(
    metric: str,
    other: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
    styles: Mapping[str, Style],
) -> Panel:
    """A point per trial, and how the two go together in rank."""
    traces = [
        {
            "x": [x for x, _ in each],
            "y": [y for _, y in each],
            "name": plain(arm),
            "mode": "markers",
            "marker": {"symbol": styles[arm].symbol, "size": 8, "color": styles[arm].colour},
            "hovertemplate": f"{plain(other)} %{{x:.3~g}}<br>{plain(metric)} %{{y:.3~g}}",
        }
        for arm, each in points.items()
    ]
    every = [point for each in points.values() for point in each]
    r = rank_correlation([x for x, _ in every], [y for _, y in every])
    reach = ""
    if r.low is not None and r.high is not None:
        reach = f" (95% interval {max(r.low, -1):+.2f} to {min(r.high, 1):+.2f})"
    words = f"{len(every)} trials, rank correlation {r.mean:+.2f}{reach}".replace("-", "\u2212")
    told = f"{metric} against {other}: {words}."
    return Panel(told, _draw(traces, other), HEIGHT, f"{metric} against {other}", words, wide=True)


def _line(
    metric: str,
    other: str,
    points: Mapping[str, Sequence[tuple[float, float]]],
) -> Panel:
    """A line through the means of the arms, with their intervals, and a tick per trial."""
    ordered = sorted(points.items(), key=lambda item: fmean(x for x, _ in item[1]))
    intervals = [mean_interval([y for _, y in each]) for _, each in ordered]
    places = [fmean(x for x, _ in each) for _, each in ordered]
    ink = PALETTE["hue-0"][0]
    line: dict[str, Any] = {
        "x": places,
        "y": [interval.mean for interval in intervals],
        "mode": "lines+markers",
        "line": {"color": ink, "width": 1.9},
        "marker": {"color": ink, "size": 9},
        "text": [plain(arm) for arm, _ in ordered],
        "hovertemplate": "%{text}: %{y:.3~g}<extra></extra>",
    }
    if all(interval.low is not None and interval.high is not None for interval in intervals):
        reach = [(interval.half_width or 0.0) for interval in intervals]
        line["error_y"] = {"type": "data", "array": reach, "color": ink, "thickness": 1.5, "width": 4}
    ticks = {
        "x": [x for _, each in ordered for x, _ in each],
        "y": [y for _, each in ordered for _, y in each],
        "mode": "markers",
        "marker": {"color": ink, "opacity": 0.5, "size": 7, "symbol": "line-ew-open", "line": {"width": 1.5}},
        "hovertemplate": "one seed: %{y:.3~g}<extra></extra>",
    }
    told = "; ".join(
        f"{other} {x:g}: {interval.mean:+.3g}" for x, interval in zip(places, intervals, strict=True)
    )
    title = f"{metric} against {other}"
    note = "mean of the seeds with its 95% interval; a tick is one seed"
    return Panel(f"{title}. {told}.", _draw([ticks, line], other), HEIGHT, title, note, wide=True)


def _draw(traces: Sequence[dict[str, Any]], other: str) -> Any:
    mark = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "layer": "below"}
    dotted = {"color": PALETTE["ink"][0], "width": 1.2, "dash": "dot"}
    return draw(
        traces,
        HEIGHT,
        xaxis={"label": plain(other), "showgrid": True},
        yaxis={"nticks": 7, "zeroline": False},
        shapes=[mark | {"line": dotted}],
    )
