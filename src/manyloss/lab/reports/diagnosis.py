"""diagnose.html: the words of a diagnosis and its figures in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyloss.diagnostics import Diagnosis
from manyloss.lab.reports.drawing import draw_histogram, draw_lines
from manyloss.lab.reports.looks import render, styles_of

#: Lines in one figure.
LINES = 7
#: Points of one line; more are averaged.
POINTS = 120


def render_page(name: str, diagnosis: Diagnosis, records: Sequence[Mapping[str, Any]], note: str) -> str:
    """The whole page."""
    pairs = [summary.pair for summary in diagnosis.pairs]
    losses = list(dict.fromkeys(loss for record in records for loss in record["norm_shares"]))
    cosines = {pair: _thinned(records, "cosines", pair) for pair in pairs[:LINES]}
    shares = {loss: _thinned(records, "norm_shares", loss) for loss in losses[:LINES]}
    known = [record["purity"]["histogram"] for record in records if record["purity"] is not None]
    layers = [
        {
            "name": layer,
            "mean": float(np.mean([summary.mean for summary in found])),
            "worst": worst,
        }
        for layer, found in diagnosis.layers.items()
        if found and (worst := min(found, key=lambda summary: summary.mean))
    ]
    return render(
        "diagnosis.html.j2",
        title=f"{name}: do the losses conflict?",
        heading=f"{name}: do the losses conflict?",
        facts=note,
        made_from="diagnose",
        diagnosis=diagnosis,
        cosines=draw_lines("Cosines", cosines, (-1.05, 1.05)) if cosines else None,
        pairs=list(styles_of(list(cosines)).values()),
        cosines_left_out=len(pairs) - len(cosines),
        layers=layers,
        norms=draw_lines("Shares of the gradients' norms", shares, (0.0, 1.05)) if shares else None,
        losses=list(styles_of(list(shares)).values()),
        shares_left_out=len(losses) - len(shares),
        purity=draw_histogram("Shares of positions by P", np.mean(np.array(known), axis=0).tolist(), "P")
        if known
        else None,
    )


def _thinned(records: Sequence[Mapping[str, Any]], kind: str, name: str) -> tuple[list[float], list[float]]:
    points = [(record["step"], record[kind][name]) for record in records if name in record[kind]]
    parts = np.array_split(np.array(points, dtype=float), min(POINTS, len(points)))
    return [float(part[:, 0].mean()) for part in parts], [float(part[:, 1].mean()) for part in parts]
