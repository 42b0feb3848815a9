"""The report's section about attacked classifiers: accuracy over eps, the loss around images, saliency maps.

A run whose trials were not attacked has no such section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from manyloss.lab import checks
from manyloss.lab.analysis.results import RunRecord
from manyloss.lab.reports.drawing import draw_attack
from manyloss.lab.reports.looks import Panel, Style
from manyloss.lab.reports.shown import Picture, picture
from manyloss.robustness.report import in_255

Curves = Mapping[str, Mapping[float, float]]


@dataclass(frozen=True)
class Plane:
    """The loss on a plane through an image."""

    picture: Picture
    low: float
    high: float


@dataclass
class Attacked:
    """What the section shows; mappings are by arm."""

    curves: dict[str, Curves] = field(default_factory=dict)  # arm -> attack -> eps -> mean accuracy
    arms: list[Style] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    planes: dict[str, list[Plane]] = field(default_factory=dict)
    reach: str = ""
    images: list[Picture] = field(default_factory=list)
    maps: dict[str, list[Picture]] = field(default_factory=dict)


def read(run: RunRecord, styles: Mapping[str, Style]) -> Attacked | None:
    """The arms whose finished trials were attacked, in the order of the study; None without any.

    Raises:
        StorageError: what a trial kept of its attacks is not what was written there.

    """
    found = Attacked()
    for arm in run.arms:
        trials = [trial for trial in run.finished(arm) if "robustness" in trial.record]
        for trial in trials[:1]:
            try:
                _add(found, arm, [each.record for each in trials])
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
                raise checks.damaged(trial.folder / "result.json", error) from error
            found.arms.append(styles[arm])
    attacks = dict.fromkeys(attack for curves in found.curves.values() for attack in curves)
    for attack in attacks:
        of_arms = {arm: curves[attack] for arm, curves in found.curves.items() if attack in curves}
        found.panels.append(draw_attack(attack, of_arms, styles))
    return found if found.curves else None


def _add(found: Attacked, arm: str, records: Sequence[Mapping[str, Any]]) -> None:
    """What the seeds of one arm kept: curves of all, pictures of the first that has them."""
    found.curves[arm] = _mean_curves([record["robustness"]["curves"] for record in records])
    if landscape := next((record["landscape"] for record in records if "landscape" in record), None):
        reach = max(landscape["offsets"])
        found.reach = found.reach or f"{reach:g} ({in_255(reach)})"
        found.planes[arm] = [_plane(np.array(losses, float)) for losses in landscape["losses"]]
    if saliency := next((record["saliency"] for record in records if "saliency" in record), None):
        found.images = found.images or [
            picture(np.array(each["image"], np.uint8).transpose(1, 2, 0)) for each in saliency
        ]
        found.maps[arm] = [picture(np.array(each["map"], np.uint8)) for each in saliency]


def _mean_curves(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> Curves:
    return {
        attack: {float(eps): fmean(float(curves[attack][eps]) for curves in seeds) for eps in radii}
        for attack, radii in seeds[0].items()
        if all(attack in curves and set(curves[attack]) == set(radii) for curves in seeds)
    }


def _plane(losses: np.ndarray[Any, np.dtype[np.float64]]) -> Plane:
    low, high = float(losses.min()), float(losses.max())
    share = (losses - low) / max(high - low, 1e-30)
    pixels = (255 * share[::-1]).round().astype(np.uint8)  # up is along the gradient
    return Plane(picture(pixels, 6), low, high)
