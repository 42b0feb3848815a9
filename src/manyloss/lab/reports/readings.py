"""readings.html: under which readings of a paper its claim holds, as a specification curve.

Simonsohn, Simmons and Nelson 2020.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from manyloss.lab.analysis.sentences import percent
from manyloss.lab.claims.judging import Outcome
from manyloss.lab.claims.readings import Judged, Readings
from manyloss.lab.claims.rule import Claim
from manyloss.lab.reports.looks import PALETTE, Panel, draw, plain, render
from manyloss.lab.runs import storage

#: Heights of the curve and of one row of the settings below it.
CURVE, ROW = 220, 20
#: How a reading is drawn by what became of its checks: in words, the symbol, the colour.
DRAWN: dict[Outcome, tuple[str, str, str]] = {
    "holds": ("holds", "circle", "good"),
    "fails": ("contradicted", "x", "bad"),
    "unclear": ("not told from noise", "diamond-open", "muted"),
}
#: Share of the height between the two.
GAP = 0.04


def write_readings(folder: Path, claim: Claim, readings: Readings) -> Path:
    """Write ``readings.html`` into the run folder, and return its path."""
    path = folder / "readings.html"
    checks = readings.by_check()
    page = render(
        "readings.html.j2",
        title=f"{claim.name}: every reading",
        heading=claim.name,
        facts=claim.paper,
        made_from="reproduce",
        claim=claim,
        readings=readings,
        curve=draw_readings(readings),
        checks=checks,
        curves=[
            replace(panel, title=says)
            for says, found in checks.items()
            if (panel := draw_readings(found, f"the check {says!r}")) is not None
        ],
        percent=percent,
    )
    storage.write_bytes(path, page.encode("utf-8"))
    return path


def draw_readings(readings: Readings, of: str = "the weakest check") -> Panel | None:
    """The margins in order, each with its interval, above the settings that made them; None without any."""
    drawn = sorted((each for each in readings.judged if each.margin is not None), key=_margin)
    if not drawn:
        return None
    rows = [(each.option, value) for each in readings.opens for value in each.values]
    said = {each.option: each.says for each in readings.opens}
    height = CURVE + ROW * len(rows) + 40
    split = ROW * len(rows) / (CURVE + ROW * len(rows))
    traces: list[dict[str, Any]] = [_points(drawn, outcome) for outcome in DRAWN]
    for place, (option, value) in enumerate(rows):
        at = [number for number, each in enumerate(drawn, start=1) if each.settings[option] == value]
        traces.append(
            {
                "x": at,
                "y": [-place] * len(at),
                "yaxis": "y2",
                "mode": "markers",
                "marker": {"symbol": "square", "size": 7, "color": PALETTE["ink"][0]},
                "hovertemplate": f"{plain(said[option])}: {plain(str(value))}<extra></extra>",
            }
        )
    line = {"color": PALETTE["ink"][0], "width": 1.2, "dash": "dot"}
    figure = draw(
        traces,
        height,
        xaxis={"label": "readings, by margin", "anchor": "y2", "range": [0.3, len(drawn) + 0.7]},
        yaxis={"domain": [split + GAP, 1], "tickformat": "~%", "zeroline": False, "nticks": 6},
        yaxis2={
            "domain": [0, split],
            "tickvals": [-place for place in range(len(rows))],
            "ticktext": [f"{plain(said[option])}: {plain(str(value))}" for option, value in rows],
            "range": [0.6 - len(rows), 0.6],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
            "tickfont": {"size": 11},
        },
        shapes=[{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": line}],
    )
    told = ", ".join(f"{percent(_margin(each))} ({DRAWN[each.outcome][0]})" for each in drawn)
    return Panel(f"Margin of {of} by reading, in order: {told}.", figure, height, wide=True)


def _points(drawn: list[Judged], outcome: Outcome) -> dict[str, Any]:
    places = [number for number, each in enumerate(drawn, start=1) if each.outcome == outcome]
    mine = [drawn[place - 1] for place in places]
    name, symbol, hue = DRAWN[outcome]
    colour = PALETTE[hue][0]
    return {
        "x": places,
        "y": [each.margin for each in mine],
        "name": name,
        "mode": "markers",
        "marker": {"color": colour, "size": 9, "symbol": symbol},
        "error_y": {
            "type": "data",
            "array": [each.half_width or 0.0 for each in mine],
            "color": colour,
            "width": 2,
        },
        "hovertemplate": "%{fullData.name}: %{y:+.1%}<extra></extra>",
    }


def _margin(each: Judged) -> float:
    assert each.margin is not None
    return each.margin
