"""The trade-off drawn: the front of the sum with its seeds, and the methods beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyloss.lab.analysis.pareto import Pareto, ParetoPoint
from manyloss.lab.analysis.sentences import percent
from manyloss.lab.analysis.tuning import words_of_setting
from manyloss.lab.reports.looks import PALETTE, Panel, Style, draw, plain

SUM = PALETTE["muted"][0]
HEIGHT = 420


def draw_front(found: Pareto, styles: Mapping[str, Style]) -> Panel:
    """Two metrics as a plane; more as parallel coordinates, one line per row."""
    methods = [each.point for each in found.methods]
    plane = len(found.metrics) == 2
    drawn = _front(found, styles) if plane else _parallel(found.metrics, [*found.sums, *methods], styles)
    return _panel(found.metrics, [*found.front, *methods], drawn)


def draw_means(
    metrics: Sequence[str], means: Mapping[str, tuple[float, ...]], styles: Mapping[str, Style]
) -> Panel:
    """The same of rows alone: row -> its mean in every metric."""
    points = [ParetoPoint(name, mean, ()) for name, mean in means.items()]
    if len(metrics) > 2:
        return _panel(metrics, points, _parallel(metrics, points, styles))
    return _panel(metrics, points, _plane(metrics, [_row(point, styles[point.name]) for point in points]))


def _panel(metrics: Sequence[str], points: Sequence[ParetoPoint], drawn: Any) -> Panel:
    told = "; ".join(f"{point.name} " + ", ".join(map(percent, point.mean)) for point in points)
    return Panel(f"Change in {' and '.join(metrics)}: {told}.", drawn, HEIGHT, wide=True)


def _front(found: Pareto, styles: Mapping[str, Style]) -> Any:
    front = found.front
    traces: list[dict[str, Any]] = [
        _cloud(found.sums, SUM, "circle"),
        {
            "x": [point.mean[0] for point in front],
            "y": [point.mean[1] for point in front],
            "mode": "lines",
            "line": {"color": SUM, "width": 1.5},
            "hoverinfo": "skip",
        },
        *(
            _point(point, point.name, SUM, "circle" if point.on_front else "circle-open")
            for point in found.sums
        ),
    ]
    for each in found.methods:
        style = styles[each.point.name]
        traces.append(_cloud((each.point,), style.colour, style.symbol, style.group))
    rows = [*(each.point for each in found.methods), *(point for point in found.sums if point.name in styles)]
    traces += [_row(point, styles[point.name]) for point in rows]
    return _plane(found.metrics, traces)


def _plane(metrics: Sequence[str], traces: Sequence[dict[str, Any]]) -> Any:
    across, up = (
        {
            "tickformat": "~%",
            "showgrid": True,
            "zeroline": True,
            "label": f"{plain(metric)}: change, + is better",
        }
        for metric in metrics
    )
    up = {**up, "title": {"text": up.pop("label"), "standoff": 8, "font": {"size": 12}}}
    return draw(traces, HEIGHT, xaxis=across, yaxis=up)


def _row(point: ParetoPoint, style: Style) -> dict[str, Any]:
    return _point(point, style.name, style.colour, style.symbol, style.group)


def _cloud(points: tuple[ParetoPoint, ...], colour: str, symbol: str, group: str = "") -> dict[str, Any]:
    """Every seed of these points."""
    return {
        "x": [seed[0] for point in points for seed in point.seeds],
        "y": [seed[1] for point in points for seed in point.seeds],
        "mode": "markers",
        "marker": {"color": colour, "size": 5, "opacity": 0.3, "symbol": symbol},
        "hoverinfo": "skip",
        **({"legendgroup": group} if group else {}),
    }


def _point(point: ParetoPoint, name: str, colour: str, symbol: str, group: str = "") -> dict[str, Any]:
    """One mean; a row of the table belongs to its group of the legend."""
    return {
        "x": [point.mean[0]],
        "y": [point.mean[1]],
        "name": plain(name if group else words_of_setting(name)),
        "mode": "markers",
        "marker": {"color": colour, "size": 11 if group else 8, "symbol": symbol},
        "hovertemplate": "%{fullData.name}: %{x:+.1%}, %{y:+.1%}<extra></extra>",
        **({"legendgroup": group} if group else {}),
    }


def _parallel(metrics: Sequence[str], points: Sequence[ParetoPoint], styles: Mapping[str, Style]) -> Any:
    places = list(range(len(metrics)))
    traces = []
    for point in points:
        style = styles.get(point.name)
        name = words_of_setting(point.name) if style is None else style.name
        line = {"color": SUM, "width": 1, "dash": "solid"} if style is None else style.line
        traces.append(
            {
                "x": places,
                "y": list(point.mean),
                "name": plain(name),
                "mode": "lines+markers",
                "line": line,
                "opacity": 0.5 if style is None else 1,
                "marker": {
                    "size": 5 if style is None else 9,
                    "symbol": "circle" if style is None else style.symbol,
                },
                "hovertemplate": "%{fullData.name}: %{y:+.1%}<extra></extra>",
                **({} if style is None else {"legendgroup": style.group}),
            }
        )
    return draw(
        traces,
        HEIGHT,
        xaxis={
            "label": "change, + is better, one line per row",
            "tickvals": places,
            "ticktext": [plain(metric) for metric in metrics],
            "range": [-0.3, len(places) - 0.7],
        },
        yaxis={"tickformat": "~%", "zeroline": True},
    )
