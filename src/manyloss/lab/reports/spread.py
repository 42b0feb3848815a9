"""How much the cosine of two losses' gradients varies: in windows of steps, and how often it has which value.

CosReg (2020) shows both, in figures 5 and 2. Only recorded steps count; a pair with few of them has no panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyloss.lab.analysis.results import RunRecord, pair_names, read_steps
from manyloss.lab.reports.drawing import shortened
from manyloss.lab.reports.figures import drawn_trials
from manyloss.lab.reports.looks import Panel, Style, draw, plain

#: Recorded steps of one standard deviation.
WINDOW = 50
#: Bars of the histogram, from -1 to 1.
BINS = 40
#: With more pairs than so many, none is drawn.
PAIRS = 6
HEIGHT = 260

Floats = NDArray[np.float64]


def draw_spread(run: RunRecord, styles: Mapping[str, Style]) -> list[Panel]:
    """Two panels for every pair of losses."""
    names = pair_names(run.losses)
    if not 0 < len(names) <= PAIRS:
        return []
    seen: dict[str, list[tuple[NDArray[np.int64], Floats]]] = {}  # arm -> per seed, steps [S], cosines [S, R]
    for arm in run.arms:
        traces = [read_steps(trial, run.losses) for trial in drawn_trials(run, arm)]
        known = [(trace.steps, trace.cosines.astype(float)) for trace in traces if trace is not None]
        if known := [each for each in known if np.isfinite(each[1]).sum(0).max() >= 2 * WINDOW]:
            seen[arm] = known
    if not seen:
        return []
    panels = []
    for pair, name in enumerate(names):
        of_pair = {arm: [(steps, cosines[:, pair]) for steps, cosines in each] for arm, each in seen.items()}
        panels += [_windows(name, of_pair, styles), _histogram(name, of_pair, styles)]
    return panels


def sigma_in_windows(steps: NDArray[np.int64], cosines: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The last step, and the sample standard deviation, of every `WINDOW` recorded cosines in a row."""
    known = np.isfinite(cosines)
    steps, cosines = steps[known], cosines[known]
    count = len(cosines) // WINDOW
    parts = cosines[: count * WINDOW].reshape(count, WINDOW)
    return steps[WINDOW - 1 : count * WINDOW : WINDOW], parts.std(axis=1, ddof=1)


def shares(cosines: Floats) -> Floats:
    """How much of the recorded cosines lies in each of `BINS` even parts of -1..1."""
    counts, _ = np.histogram(cosines[np.isfinite(cosines)], BINS, (-1, 1))
    return counts / max(int(counts.sum()), 1)


Traces = Mapping[str, Sequence[tuple[NDArray[np.int64], Floats]]]


def _windows(name: str, seen: Traces, styles: Mapping[str, Style]) -> Panel:
    lines, told = [], []
    for arm, seeds in seen.items():
        found = [sigma_in_windows(steps, cosines) for steps, cosines in seeds]
        length = min(len(sigma) for _, sigma in found)
        sigma = np.mean([each[:length] for _, each in found], axis=0)
        lines.append(_line(styles[arm], found[0][0][:length], sigma, "step %{x}: %{y:.3f}"))
        told.append(f"{arm} {sigma[0]:.3f} to {sigma[-1]:.3f}" if length else f"{arm} none")
    figure = draw(
        lines,
        HEIGHT,
        xaxis={"label": "step", "rangemode": "tozero"},
        yaxis={"rangemode": "tozero", "nticks": 6},
    )
    note = f"standard deviation in windows of {WINDOW} recorded steps, mean over seeds"
    return Panel(
        f"{name}, {note}: {'; '.join(told)}.", figure, HEIGHT, f"sigma of {shortened(name, 40)}", note
    )


def _histogram(name: str, seen: Traces, styles: Mapping[str, Style]) -> Panel:
    middles = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    lines, told = [], []
    for arm, seeds in seen.items():
        every = np.concatenate([cosines for _, cosines in seeds])
        lines.append(
            _line(styles[arm], middles, shares(every), "%{x:.2f}: %{y:.1%}")
            | {"line": {**styles[arm].line, "shape": "hvh"}}
        )
        told.append(f"{arm} {np.nanmean(every):+.2f} \u00b1 {np.nanstd(every):.2f}")
    figure = draw(
        lines,
        HEIGHT,
        xaxis={"label": "cosine", "range": [-1, 1]},
        yaxis={"tickformat": ".0%", "rangemode": "tozero", "nticks": 5},
    )
    title = f"how often which cosine of {shortened(name, 30)}"
    return Panel(f"{title}: {'; '.join(told)}.", figure, HEIGHT, title, "share of recorded steps, all seeds")


def _line(style: Style, x: Any, y: Floats, told: str) -> dict[str, Any]:
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "name": plain(style.name),
        "legendgroup": style.group,
        "mode": "lines",
        "line": style.line,
        "hovertemplate": told,
    }
