"""Drawing: the numbers of `figures` as plotly figures with their words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyloss.lab.analysis.sentences import percent
from manyloss.lab.reports.figures import LINES, Curves, Rows, Traces
from manyloss.lab.reports.looks import DIVERGING, PALETTE, Panel, Style, draw, plain, styles_of

Numbers = Sequence[float | None]


def draw_curves(panel: Curves, styles: Sequence[Style]) -> Panel:
    """Learning curves of all arms, each with its interval as a band."""
    bands: list[dict[str, Any]] = []
    lines = []
    for line in panel.lines:
        style = styles[line.arm]
        edges = zip(line.x, line.low, line.high, strict=True)
        band = [(x, low, high) for x, low, high in edges if low is not None and high is not None]
        if len(band) > 1:
            x, low, high = (list(column) for column in zip(*band, strict=True))
            bands.append(
                {
                    "x": x + x[::-1],
                    "y": high + low[::-1],
                    "fill": "toself",
                    "fillcolor": style.colour,
                    "opacity": 0.06 if len(panel.lines) > 8 else 0.12,
                    "line": {"width": 0},
                    "mode": "lines",
                    "hoverinfo": "skip",
                    "legendgroup": style.group,
                }
            )
        drawn = _line(style, line.x, line.y, "epoch %{x}: %{y:.4~g}")
        if len(band) == len(line.x):
            drawn["customdata"] = [(high - low) / 2 for _, low, high in band]
            drawn["hovertemplate"] += " ± %{customdata:.2~g}"
        lines.append(drawn)
    few = max(line.x[-1] for line in panel.lines) <= 10
    last = ", ".join(f"{styles[line.arm].name} {_short_number(line.y)}" for line in panel.lines)
    figure = draw(
        bands + lines,
        260,
        xaxis={"label": "epoch", "rangemode": "tozero", "dtick": 1 if few else None},
        yaxis={"type": "log", "dtick": 1} if panel.logarithmic else {"nticks": 7, "range": _around(panel)},
    )
    told = f"{panel.title} ({panel.note}) by epoch. Last values: {last}."
    return Panel(told, figure, 260, panel.title, panel.note)


def _around(panel: Curves) -> list[float]:
    """With two seeds the intervals are many times wider than the curves: the curves decide what is seen."""

    def values(of: str) -> list[float]:
        every = [value for line in panel.lines for value in getattr(line, of) if value is not None]
        return [value for value in every if math.isfinite(value)]

    low, high = min(values("y")), max(values("y"))
    room = 0.5 * (high - low) or 0.05 * abs(high) or 1.0
    bottom = max(low - room, min([low, *values("low")]))
    top = min(high + room, max([high, *values("high")]))
    edge = 0.05 * (top - bottom or 2 * room)
    return [bottom - edge, top + edge]


def draw_changes(rows: Sequence[Rows], styles: Sequence[Style], against: str) -> Panel:
    """The change of every arm with its interval."""
    told = "; ".join(
        f"{styles[row.arm].name} {percent(row.mid)}"
        + ("" if row.low is None or row.high is None else f" ({percent(row.low)} to {percent(row.high)})")
        for row in rows
    )
    words = f"mean relative change against {against}"
    panel = _rows(rows, styles, words, reference=0, shape="+.2%", ticks="~%")
    return Panel(f"{words.capitalize()}: {told}.", *panel, wide=True)


def draw_times(rows: Sequence[Rows], styles: Sequence[Style], against: str) -> Panel:
    """The step time of every arm."""
    told = "; ".join(f"{styles[row.arm].name} {row.mid:.2f} times" for row in rows)
    words = f"step time over {against}"
    panel = _rows(rows, styles, words, reference=1, shape=".2f", ticks="~g")
    return Panel(f"{words.capitalize()}: {told}.", *panel, wide=True)


def _rows(
    rows: Sequence[Rows], styles: Sequence[Style], label: str, *, reference: float, shape: str, ticks: str
) -> tuple[Any, int]:
    """One row per arm: a middle with its interval, above it a tick per seed."""
    traces: list[dict[str, Any]] = []
    places = list(range(len(rows)))[::-1]
    for place, row in zip(places, rows, strict=True):
        style = styles[row.arm]
        seeds = {
            "color": style.colour,
            "opacity": 0.45,
            "size": 6,
            "symbol": "line-ns-open",
            "line": {"width": 1.5},
        }
        traces.append(
            {
                "x": row.points,
                "y": [place + 0.24] * len(row.points),
                "name": plain(style.name),
                "mode": "markers",
                "marker": seeds,
                "hovertemplate": f"%{{fullData.name}}, one seed: %{{x:{shape}}}<extra></extra>",
            }
        )
        middle: dict[str, Any] = {
            "x": [row.mid],
            "y": [place],
            "name": plain(style.name),
            "mode": "markers",
            "marker": {"color": style.colour, "size": 10, "symbol": style.symbol},
            "hovertemplate": f"%{{fullData.name}}: %{{x:{shape}}}<extra></extra>",
        }
        if row.low is not None and row.high is not None:
            middle["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [row.high - row.mid],
                "arrayminus": [row.mid - row.low],
                "color": style.colour,
                "thickness": 2,
                "width": 5,
            }
        traces.append(middle)
    ink = PALETTE["ink"][0]
    mark = {
        "type": "line",
        "x0": reference,
        "x1": reference,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "layer": "below",
    }
    height = 62 + 34 * len(rows)
    figure = draw(
        traces,
        height,
        xaxis={"label": plain(label), "showgrid": True, "tickformat": ticks},
        yaxis={
            "tickvals": places,
            "ticktext": [plain(shortened(styles[row.arm].name, 24)) for row in rows],
            "tickfont": {"size": 12, "color": ink},
            "range": [-0.6, len(rows) - 0.4],
            "showgrid": False,
            "zeroline": False,
            "ticks": "",
        },
        shapes=[mark | {"line": {"color": ink, "width": 1.2, "dash": "dot"}}],
    )
    return figure, height


def draw_traces(panel: Traces, styles: Mapping[str, Style], quantity: str) -> Panel:
    """Weights, norms or cosines by step: a line per loss, or where they are many a heat map."""
    last = ", ".join(
        f"{name} {_short_number(values, '.2g')}"
        for name, values in list(zip(panel.rows, panel.values, strict=True))[:LINES]
    )
    told = f"{quantity.capitalize()}s of {panel.title} by step. Last values: {last}."
    diverging = quantity == "cosine"
    many = diverging or len(panel.rows) > LINES
    drawn = _heat(panel, quantity) if many else _lines(panel, styles, quantity)
    return Panel(told, *drawn, panel.title, wide=diverging and panel.arm is None)


def _lines(panel: Traces, styles: Mapping[str, Style], quantity: str) -> tuple[Any, int]:
    traces = [
        _line(styles[name], panel.x, values, "step %{x}: %{y:.4~g}") | {"connectgaps": True}
        for name, values in zip(panel.rows, panel.values, strict=True)
    ]
    yaxis: dict[str, Any] = {"nticks": 6}
    if quantity == "norm":
        powers = _powers(panel.values)
        decades = np.nanmax(powers) - np.nanmin(powers) if np.isfinite(powers).any() else 0.0
        yaxis = {"type": "log", "dtick": 1 if decades > 2.5 else "D2", "tickformat": ".1~g"}
    return draw(traces, 230, xaxis={"label": "step", "rangemode": "tozero"}, yaxis=yaxis), 230


def _powers(values: Sequence[Numbers]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of ten."""
    known = np.array(values, dtype=float)
    powers: np.ndarray[Any, np.dtype[np.float64]] = np.log10(
        known, out=np.full(known.shape, np.nan), where=known > 0
    )
    return powers


def _heat(panel: Traces, quantity: str) -> tuple[Any, int]:
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": panel.x,
        "y": [plain(name) for name in panel.rows],
        "z": panel.values,
        "hoverongaps": False,
        "ygap": 1 if len(panel.rows) > 1 else 0,
        "hovertemplate": f"%{{y}}<br>step %{{x}}<br>{quantity} %{{z:.3~g}}<extra></extra>",
    }
    if quantity == "cosine":
        heat |= {"colorscale": list(zip((0, 0.5, 1), DIVERGING, strict=True)), "zmin": -1, "zmax": 1}
        heat["showscale"] = False
    else:
        bar = {"thickness": 8, "outlinewidth": 0, "tickfont": {"size": 10}, "xpad": 4, "nticks": 5}
        heat |= {"colorscale": "Cividis", "colorbar": bar}
    if quantity == "norm":
        powers = _powers(panel.values)
        heat |= {"z": powers.tolist(), "customdata": panel.values}
        heat["hovertemplate"] = heat["hovertemplate"].replace("z:", "customdata:")
        if np.isfinite(powers).any():
            ticks = list(range(math.floor(np.nanmin(powers)), math.ceil(np.nanmax(powers)) + 1))
            bar |= {"tickvals": ticks, "ticktext": [f"10<sup>{tick}</sup>" for tick in ticks]}
    many = len(panel.rows) > 20
    height = 56 + (12 if many else 20) * max(len(panel.rows), 2)
    figure = draw(
        [heat],
        height,
        xaxis={"label": "step"},
        yaxis={
            # A hair beside the rows: where a tick is, plotly says its short text and not the whole name.
            "tickvals": [row + 0.01 for row in range(len(panel.rows))],
            "ticktext": [plain(shortened(name, 21)) for name in panel.rows],
            "tickfont": {"size": 9 if many else 11},
            "autorange": "reversed",
            "showgrid": False,
            "zeroline": False,
            "ticks": "",
        },
    )
    return figure, height


def draw_attack(
    title: str, curves: Mapping[str, Mapping[float, float]], styles: Mapping[str, Style]
) -> Panel:
    """Accuracy over radii, which are unevenly spread, from 0.02 to 1: they stand at even distances."""
    radii = sorted({eps for curve in curves.values() for eps in curve})
    traces = [
        {
            "x": [radii.index(eps) for eps in sorted(curve)],
            "y": [curve[eps] for eps in sorted(curve)],
            "name": plain(arm),
            "mode": "lines+markers",
            "line": styles[arm].line,
            "marker": {"symbol": styles[arm].symbol, "size": 7, "color": styles[arm].colour},
            "hovertemplate": "eps %{x}: %{y:.1%}",
        }
        for arm, curve in curves.items()
    ]
    names = [f"{eps:g}<br><sub>{255 * eps:.3g}</sub>" for eps in radii]
    figure = draw(
        traces,
        260,
        xaxis={"label": "eps, below it in /255", "tickvals": list(range(len(radii))), "ticktext": names},
        yaxis={"tickformat": ".0%", "range": [-0.03, 1.03], "nticks": 6},
    )
    told = "; ".join(
        f"{arm}: " + ", ".join(f"{eps:g} {value:.1%}" for eps, value in sorted(curve.items()))
        for arm, curve in curves.items()
    )
    return Panel(f"{title}. {told}", figure, 260, title, "accuracy over eps")


def draw_lines(
    title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], bounds: Numbers
) -> Panel:
    """Lines by step on a scale that is known."""
    styles = styles_of(list(lines))
    traces = [_line(styles[name], x, y, "step %{x:.0f}: %{y:.3f}") for name, (x, y) in lines.items()]
    figure = draw(traces, 260, xaxis={"label": "step"}, yaxis={"range": bounds, "nticks": 5})
    last = ", ".join(f"{name} {_short_number(y, '.2g')}" for name, (_, y) in lines.items())
    return Panel(f"{title} by step. Last values: {last}.", figure, 260, wide=True)


def draw_histogram(title: str, shares: Numbers, label: str) -> Panel:
    """Shares over even parts of 0 to 1."""
    count = len(shares)
    bars = {
        "type": "bar",
        "x": [(i + 0.5) / count for i in range(count)],
        "y": shares,
        "customdata": [f"{i / count:.1f} to {(i + 1) / count:.1f}" for i in range(count)],
        "marker": {"color": PALETTE["hue-0"][0]},
        "hovertemplate": "%{customdata}: %{y:.1%}<extra></extra>",
    }
    yaxis = {"tickformat": ".0%", "rangemode": "tozero", "nticks": 5}
    figure = draw([bars], 240, xaxis={"label": label, "range": [0, 1]}, yaxis=yaxis, bargap=0.06)
    told = ", ".join(f"{share:.0%}" for share in shares if share is not None)
    return Panel(f"{title}, from 0 to 1: {told}.", figure, 240, wide=True)


def _line(style: Style, x: Numbers, y: Numbers, told: str) -> dict[str, Any]:
    """A line whose few markers tell it apart without colour."""
    return {
        "x": x,
        "y": y,
        "name": plain(style.name),
        "legendgroup": style.group,
        "mode": "lines+markers",
        "line": style.line,
        "marker": {"symbol": style.symbol, "color": style.colour, "size": 7, "maxdisplayed": 7},
        "hovertemplate": told,
    }


def _short_number(values: Numbers, shape: str = ".4g") -> str:
    present = [value for value in values if value is not None and math.isfinite(value)]
    return format(present[-1], shape) if present else "none"


def shortened(text: str, most: int) -> str:
    """Names of tasks often differ at their ends only, so the middle goes."""
    if len(text) <= most:
        return text
    first, bar, second = text.partition("|")
    if bar:
        half = (most - 1) // 2
        return f"{shortened(first, half)}|{shortened(second, half)}"
    end = max(1, (most - 1) // 2)
    return f"{text[: max(1, most - 1 - end)]}…{text[-end:]}"
