"""diagnose.html: the words of a diagnosis and four small figures in one file, without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from manyloss.diagnostics import Diagnosis

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 240, 46, 30, 10
#: Lines in one figure.
LINES = 7
#: Points of one line; more are averaged.
POINTS = 120

Series = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


def render_page(name: str, diagnosis: Diagnosis, records: Sequence[Mapping[str, Any]], note: str) -> str:
    """The whole page."""
    style = (files("manyloss.lab.reports") / "templates" / "page.css").read_text(encoding="utf-8")
    findings = "".join(f"<li>{escape(finding.sentence)}</li>" for finding in diagnosis.findings)
    figures = "".join([_cosines(diagnosis, records), _layers(diagnosis), _norms(records), _purity(records)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(name)}: do the losses conflict?</title><style>{style}\n"
        "svg.small{width:100%;height:auto;max-width:48rem;font:12px system-ui,sans-serif}"
        "svg.small text{fill:var(--muted)}</style></head><body>"
        f"<header><h1>{escape(name)}: do the losses conflict?</h1><p class='note'>{escape(note)}</p></header>"
        f"<main><section><p><strong>{escape(diagnosis.answer)}</strong></p><ul>{findings}</ul>"
        f"<p><strong>{escape(diagnosis.advice)}</strong></p></section>{figures}</main>"
        "<footer><p class='note'>Made by manyloss diagnose; it loads nothing from anywhere.</p></footer>"
        "</body></html>\n"
    )


def _cosines(diagnosis: Diagnosis, records: Sequence[Mapping[str, Any]]) -> str:
    shown = [summary.pair for summary in diagnosis.pairs[:LINES]]
    series = []
    for pair in shown:
        points = [(r["step"], r["cosines"][pair]) for r in records if pair in r["cosines"]]
        series.append((pair.replace("|", " against "), *_thinned(points)))
    left = len(diagnosis.pairs) - len(shown)
    more = f" The {left} less opposed pairs are not drawn." if left > 0 else ""
    text = f"Cosine of two losses' gradients by step; below 0 is conflict.{more}"
    return _section("Conflict over time", text, _lines(series, -1.0, 1.0)) if series else ""


def _norms(records: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for record in records for name in record["norm_shares"]))
    series = []
    for name in names[:LINES]:
        points = [(r["step"], r["norm_shares"][name]) for r in records if name in r["norm_shares"]]
        series.append((name, *_thinned(points)))
    more = f" The first {LINES} of {len(names)} losses are drawn." if len(names) > LINES else ""
    text = f"Share of each loss in the sum of the gradients' norms, by step.{more}"
    return _section("Norms", text, _lines(series, 0.0, 1.0)) if series else ""


def _layers(diagnosis: Diagnosis) -> str:
    rows = []
    for layer, pairs in diagnosis.layers.items():
        if pairs:
            mean = float(np.mean([summary.mean for summary in pairs]))
            rows.append((layer, mean, min(pairs, key=lambda summary: summary.mean)))
    if not rows:
        return ""
    body = "".join(
        f"<tr><th scope='row'>{escape(layer)}</th><td>{mean:+.2f}</td>"
        f"<td>{escape(worst.pair.replace('|', ' against '))}: {worst.mean:+.2f}, "
        f"negative in {worst.negative:.0%}</td></tr>"
        for layer, mean, worst in rows
    )
    table = (
        "<table><thead><tr><th>layer</th><th>mean cosine</th><th>most opposed pair</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
    return _section("Layer by layer", "From the encoder's first layer to its last.", table)


def _purity(records: Sequence[Mapping[str, Any]]) -> str:
    known = [record["purity"]["histogram"] for record in records if record["purity"] is not None]
    if not known:
        return ""
    shares = np.mean(np.array(known), axis=0)
    highest = max(float(shares.max()), 1e-9)
    step = (WIDTH - LEFT) / len(shares)
    height = HEIGHT - BOTTOM - TOP
    bars = "".join(
        f"<rect x='{LEFT + i * step + 2:.1f}' y='{HEIGHT - BOTTOM - share / highest * height:.1f}' "
        f"width='{step - 4:.1f}' height='{share / highest * height:.1f}' fill='var(--hue-0)'>"
        f"<title>P from {i / len(shares):.1f} to {(i + 1) / len(shares):.1f}: {share:.1%}</title></rect>"
        for i, share in enumerate(shares.tolist())
    )
    ticks = "".join(
        f"<text x='{LEFT + p * (WIDTH - LEFT):.0f}' y='{HEIGHT - 10}' text-anchor='middle'>{p:g}</text>"
        for p in (0.1, 0.5, 0.9)
    )
    top = f"<text x='4' y='{TOP + 10}'>{highest:.0%}</text>"
    text = "GradDrop's P over positions: 0 and 1 are agreement in sign, 0.5 is a draw. Mean over the records."
    return _section("Sign purity", text, _svg(bars + ticks + top, text))


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    parts = np.array_split(np.array(points, dtype=float), min(POINTS, len(points)))
    return [float(part[:, 0].mean()) for part in parts], [float(part[:, 1].mean()) for part in parts]


def _lines(series: Sequence[Series], low: float, high: float) -> str:
    last = max((x[-1] for _, x, _ in series), default=1.0)
    first = min((x[0] for _, x, _ in series), default=0.0)
    span = max(last - first, 1e-9)

    def at(x: float, y: float) -> str:
        across = LEFT + (x - first) / span * (WIDTH - LEFT - 10)
        return f"{across:.1f},{HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - BOTTOM - TOP):.1f}"

    parts = []
    for y in (low, (low + high) / 2, high):
        height = at(first, y).split(",")[1]
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH}' y1='{height}' y2='{height}' stroke='var(--grid)'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{float(height) + 4:.1f}' text-anchor='end'>{y:g}</text>")
    parts.append(f"<text x='{LEFT}' y='{HEIGHT - 8}'>step {first:.0f}</text>")
    parts.append(f"<text x='{WIDTH - 10}' y='{HEIGHT - 8}' text-anchor='end'>step {last:.0f}</text>")
    for i, (name, xs, ys) in enumerate(series):
        points = " ".join(at(x, y) for x, y in zip(xs, ys, strict=True))
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='var(--hue-{i})' stroke-width='1.6'>"
            f"<title>{escape(name)}</title></polyline>"
        )
    legend = "".join(
        f"<span style='color:var(--hue-{i})'>&#9632;</span> {escape(name)} &nbsp; "
        for i, (name, _, _) in enumerate(series)
    )
    return _svg("".join(parts), ", ".join(name for name, _, _ in series)) + f"<p class='note'>{legend}</p>"


def _svg(content: str, label: str) -> str:
    box = f"viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(label, quote=True)}'"
    return f"<svg class='small' {box}>{content}</svg>"


def _section(title: str, text: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{body}</section>"
