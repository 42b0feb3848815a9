"""The report's section about attacked classifiers: accuracy over eps, the loss around images, saliency maps.

Static pictures: they need no script. A run whose trials were not attacked has no such section.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import numpy as np

from manyloss.lab.analysis.results import RunRecord
from manyloss.robustness.report import in_255

WIDTH, HEIGHT, MARGIN = 340, 220, 34
SCALE = 3  # pixels of a picture per pixel of an image

Swatch = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Attacked:
    """What the trials of one arm kept: attack -> eps -> accuracy (mean over seeds), and pictures."""

    arm: str
    curves: Mapping[str, Mapping[float, float]]
    saliency: Sequence[Mapping[str, Any]]
    landscape: Mapping[str, Any]


def read(run: RunRecord) -> list[Attacked]:
    """The arms whose finished trials were attacked, in the order of the study."""
    found = []
    for arm in run.arms:
        records = [trial.record for trial in run.finished(arm)]
        curves = [record["robustness"]["curves"] for record in records if "robustness" in record]
        if curves:
            saliency: Any = next((record["saliency"] for record in records if "saliency" in record), [])
            landscape: Any = next((record["landscape"] for record in records if "landscape" in record), {})
            found.append(Attacked(arm, _mean_curves(curves), saliency, landscape))
    return found


def _mean_curves(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[float, float]]:
    return {
        attack: {float(eps): fmean(curves[attack][eps] for curves in seeds) for eps in radii}
        for attack, radii in seeds[0].items()
        if all(attack in curves and set(curves[attack]) == set(radii) for curves in seeds)
    }


def section(run: RunRecord, styles: Sequence[Mapping[str, Any]], swatch: Swatch) -> str:
    """The whole section, or nothing."""
    attacked = read(run)
    if not attacked:
        return ""
    by_name = {style["name"]: style for style in styles}
    attacks = list(dict.fromkeys(name for each in attacked for name in each.curves))
    legend = "".join(f"<li>{swatch(by_name[each.arm])} {escape(each.arm)}</li>" for each in attacked)
    panels = "".join(_panel(attack, attacked, by_name) for attack in attacks)
    parts = [
        '<section aria-labelledby="attacked"><h2 id="attacked">Under attack</h2>',
        '<p class="lead">Accuracy on the test images against the radius eps of the attack (mean over seeds). '
        "At eps = 1 every image is allowed: what is left there was not found, and is not robust. "
        "The verdict on gradient masking is in the table above and counts for every curve.</p>",
        f'<ul class="sentences">{legend}</ul><div class="panels">{panels}</div>',
    ]
    if any(each.landscape for each in attacked):
        parts.append(_landscape(attacked))
    if any(each.saliency for each in attacked):
        parts.append(_saliency(attacked))
    return "".join(parts) + "</section>"


# -- curves -------------------------------------------------------------------------------------------------


def _panel(attack: str, attacked: Sequence[Attacked], styles: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [each for each in attacked if attack in each.curves]
    radii = sorted({eps for each in shown for eps in each.curves[attack]})
    places = {eps: _across(number, len(radii)) for number, eps in enumerate(radii)}
    lines = []
    for each in shown:
        style = styles[each.arm]
        colour = "var(--ink)" if style["hue"] < 0 else f"var(--hue-{style['hue']})"
        points = " ".join(
            f"{places[eps]:.1f},{_up(value):.1f}" for eps, value in sorted(each.curves[attack].items())
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    marks = "".join(
        f'<text x="{x:.1f}" y="{HEIGHT - 12}" font-size="11" text-anchor="middle" '
        f'fill="var(--muted)">{eps:g}</text>'
        f'<text x="{x:.1f}" y="{HEIGHT}" font-size="9" text-anchor="middle" '
        f'fill="var(--muted)">{255 * eps:g}</text>'
        for eps, x in places.items()
    )
    grid = "".join(
        f'<line x1="{MARGIN}" x2="{WIDTH - 8}" y1="{_up(level):.1f}" y2="{_up(level):.1f}" '
        f'stroke="var(--grid)"/><text x="{MARGIN - 4}" y="{_up(level) + 4:.1f}" font-size="11" '
        f'text-anchor="end" fill="var(--muted)">{level:.0%}</text>'
        for level in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    told = "; ".join(f"{each.arm}: " + ", ".join(_told(each.curves[attack])) for each in shown)
    return (
        f"<figure><figcaption><h3>{escape(attack)}</h3><span>accuracy over eps, below it in /255</span>"
        "</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{attack}. {told}")}">'
        f"{grid}{marks}{''.join(lines)}</svg></figure>"
    )


def _told(curve: Mapping[float, float]) -> list[str]:
    return [f"{eps:g} {value:.1%}" for eps, value in sorted(curve.items())]


def _across(number: int, count: int) -> float:
    """The radii are unevenly spread, from 0.02 to 1: they stand side by side at even distances."""
    return MARGIN + 6 + number * (WIDTH - MARGIN - 26) / max(count - 1, 1)


def _up(accuracy: float) -> float:
    return 10 + (1 - accuracy) * (HEIGHT - 44)


# -- landscape ----------------------------------------------------------------------------------------------


def _landscape(attacked: Sequence[Attacked]) -> str:
    shown = [each for each in attacked if each.landscape]
    reach = max(shown[0].landscape["offsets"])
    rows = "".join(
        f"<tr><th scope='row'>{escape(each.arm)}</th>"
        + "".join(f"<td>{_slice(np.array(losses), each.arm)}</td>" for losses in each.landscape["losses"])
        + "</tr>"
        for each in shown
    )
    return (
        "<h3>The loss around an image</h3>"
        "<div class='scroll' role='region' aria-label='The loss around an image' tabindex='0'>"
        f"<table><tbody>{rows}</tbody></table></div>"
        f"<p class='note'>Cross-entropy of a few test images on a plane through each, {reach:g} "
        f"({in_255(reach)}) to every side: upwards along the sign of the gradient, sideways along random "
        "signs; dark is low, bright is high, and the numbers are the lowest and the highest. An honest "
        "gradient points to where the loss is high, so the upper half is bright; a plane that is flat, "
        "jagged or bright elsewhere hides the way from an attack.</p>"
    )


def _slice(losses: np.ndarray[Any, np.dtype[np.float64]], arm: str) -> str:
    low, high = float(losses.min()), float(losses.max())
    share = (losses - low) / max(high - low, 1e-30)
    pixels = (255 * share[::-1]).round().astype(np.uint8)  # up is along the gradient
    told = f"loss around an image for {arm}, from {low:.3g} to {high:.3g}"
    return f"{_picture(pixels, told, 6)}<br><small>{low:.2g} … {high:.2g}</small>"


# -- saliency -----------------------------------------------------------------------------------------------


def _saliency(attacked: Sequence[Attacked]) -> str:
    first = next(each for each in attacked if each.saliency)
    images = [np.array(found["image"], np.uint8).transpose(1, 2, 0) for found in first.saliency]
    heads = "".join(f"<th scope='col'>{_picture(image, 'test image')}</th>" for image in images)
    rows = "".join(
        f"<tr><th scope='row'>{escape(each.arm)}</th>"
        + "".join(
            f"<td>{_picture(np.array(found['map'], np.uint8), f'saliency of {each.arm}')}</td>"
            for found in each.saliency
        )
        + "</tr>"
        for each in attacked
        if each.saliency
    )
    return (
        "<h3>Saliency maps</h3><div class='scroll' role='region' aria-label='Saliency maps' tabindex='0'>"
        f"<table><thead><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        "<p class='note'>Size of the loss's gradient at every pixel, the largest of the colours; "
        "each map has its own scale.</p>"
    )


def _picture(pixels: np.ndarray[Any, np.dtype[np.uint8]], told: str, scale: int = SCALE) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    size = (scale * image.width, scale * image.height)
    content = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    width, height = size
    return f'<img width="{width}" height="{height}" alt="{escape(told)}" src="data:image/png;base64,{data}">'
