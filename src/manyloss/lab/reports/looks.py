"""Looks: the colours of a page in light and in dark, the styles of its lines, and what all figures share.

A figure is drawn in the colours of light. The style sheet, which has both from here, replaces each by its
dark counterpart where the reader's system is dark, so that printing and a change of mode need no drawing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from manyloss.lab.printing import printable

#: Name -> colour in light, colour in dark. The hues can be told apart with any colour vision.
PALETTE = {
    "paper": ("#ffffff", "#14161a"),
    "raised": ("#f6f6f3", "#1d2026"),
    "ink": ("#1b1d21", "#e9e9e4"),
    "muted": ("#5d626b", "#a4a8b0"),
    "grid": ("#e3e3de", "#2b2f36"),
    "line": ("#d3d3cc", "#3a3f48"),
    "good": ("#006b4f", "#3fc99b"),
    "bad": ("#a63c00", "#ff9a57"),
    "hue-0": ("#0072b2", "#4ea8e8"),
    "hue-1": ("#d55e00", "#f2823f"),
    "hue-2": ("#00835f", "#2fbf94"),
    "hue-3": ("#b8578f", "#e08bbd"),
    "hue-4": ("#b07d00", "#e3b341"),
    "hue-5": ("#3a9bd9", "#9ad4f7"),
    "hue-6": ("#6a51a3", "#ab97e0"),
}
#: From conflict over nothing to agreement; a dark page shows heat maps inverted.
DIVERGING = ("#b2520a", "#f4f4f1", "#14639e")
HUES = 7
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "triangle-down",
    "star",
    "x",
    "hexagon",
)
#: Whether plotly looks at every attribute of a figure, as in tests: it takes ten times as long.
VALIDATE = False
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"


@dataclass(frozen=True)
class Style:
    """How the lines of one name look in every figure: hue, dash and marker each tell it apart."""

    name: str
    hue: str
    dash: str
    symbol: str

    @property
    def group(self) -> str:
        """What the legend and the traces of this name have in common."""
        return plain(self.name)

    @property
    def colour(self) -> str:
        """Its colour in light."""
        return PALETTE[self.hue][0]

    @property
    def line(self) -> dict[str, Any]:
        """As plotly wants it."""
        return {"color": self.colour, "dash": self.dash, "width": 2.6 if self.hue == "ink" else 1.9}


@dataclass(frozen=True)
class Panel:
    """A figure on a page: its words for those who see it, and for those who do not."""

    told: str
    figure: Markup
    height: int
    title: str = ""
    note: str = ""
    wide: bool = False


def styles_of(names: Sequence[str], baseline: str | None = None) -> dict[str, Style]:
    """Neighbours share nothing, and the first 28 differ in hue or dash; a baseline is black and solid."""
    others = [name for name in names if name != baseline]
    # The baseline is a solid line with circles, so the others start behind these.
    symbols = SYMBOLS if len(others) == len(names) else SYMBOLS[1:]
    styles = {
        name: Style(name, f"hue-{i % HUES}", DASHES[i % len(DASHES)], symbols[i % len(symbols)])
        for i, name in enumerate(others)
    }
    return {name: styles.get(name, Style(name, "ink", DASHES[0], SYMBOLS[0])) for name in names}


def plain(name: str) -> str:
    """A name in a text of plotly, which reads a little HTML."""
    return str(escape(printable(name)))


def draw(
    traces: Sequence[dict[str, Any]],
    height: int,
    *,
    xaxis: dict[str, Any],
    yaxis: dict[str, Any],
    **more: Any,
) -> Markup:
    """A figure as HTML for a page that has plotly.js already."""
    line = PALETTE["line"][0]
    axis = {
        "gridcolor": PALETTE["grid"][0],
        "linecolor": line,
        "zerolinecolor": line,
        "tickcolor": line,
        "tickfont": {"size": 11},
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
    }
    title = {"title": {"text": xaxis.pop("label"), "standoff": 8, "font": {"size": 12}}}
    figure = {
        "data": _compact(traces),
        "layout": {
            "height": height,
            "margin": {"l": 8, "r": 10, "t": 6, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "color": PALETTE["muted"][0], "size": 12},
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": PALETTE["raised"][0],
                "bordercolor": line,
                "font": {"color": PALETTE["ink"][0]},
                "namelength": 30,
            },
            "xaxis": {**axis, **title, "showgrid": False, "zeroline": False, **xaxis},
            "yaxis": {**axis, **yaxis},
            **more,
        },
    }
    settings = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    return Markup(to_html(figure, settings, include_plotlyjs=False, full_html=False, validate=VALIDATE))


def _compact(value: Any) -> Any:
    """With four significant digits, and null for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_compact(item) for item in value]
    return value


@cache
def _templates() -> Environment:
    pages = Environment(
        loader=PackageLoader("manyloss.lab.reports"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals["palette"] = {
        name: {
            "light": light,
            "dark": dark,
            "rgb": ", ".join(str(int(light[i : i + 2], 16)) for i in (1, 3, 5)),
        }
        for name, (light, dark) in PALETTE.items()
    }
    pages.globals["diverging"] = DIVERGING
    # What text may not be broken over two lines.
    pages.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    pages.filters["css"] = lambda row: row.comparison.outcome.replace(" ", "-")
    pages.filters["cosine"] = lambda value: f"{value:+.2f}".replace("-", "−")
    pages.filters["unbroken"] = lambda text: text.replace("p = ", "p\u00a0=\u00a0").replace(
        "p < ", "p\u00a0<\u00a0"
    )
    return pages


def render(template: str, **values: Any) -> str:
    """One page in one file: everything it needs is inside."""
    return _templates().get_template(template).render(plotly_js=Markup(get_plotlyjs()), **values)
