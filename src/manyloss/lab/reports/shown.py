"""The report's section of pictures: a few test examples, their truth, and what every arm answers.

A run whose problem shows nothing has no such section.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from manyloss.lab.analysis.results import RunRecord
from manyloss.lab.pictures import Pictures
from manyloss.lab.runs import storage

#: Pictures on a page are drawn with about so many pixels a side.
SIDE = 120


@dataclass(frozen=True)
class Picture:
    """A small picture that stands inside the page."""

    width: int
    height: int
    source: str


def picture(pixels: NDArray[np.uint8], scale: int = 3) -> Picture:
    """Pixels [H, W] or [H, W, 3], with ``scale`` pixels of the page for each."""
    image = Image.fromarray(pixels)
    size = (scale * image.width, scale * image.height)
    content = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(content, "PNG")
    return Picture(*size, "data:image/png;base64," + base64.b64encode(content.getvalue()).decode())


@dataclass
class Shown:
    """One row of pictures for the inputs, and per task one for the truth and one for every arm."""

    seed: int
    inputs: list[Picture] = field(default_factory=list)
    truth: dict[str, list[Picture]] = field(default_factory=dict)
    arms: dict[str, dict[str, list[Picture]]] = field(default_factory=dict)  # task -> arm -> pictures


def read(run: RunRecord) -> Shown | None:
    """What the finished trials of the first seed show; None if they show nothing.

    Raises:
        StorageError: a file of pictures is not what was written there.

    """
    for seed in run.seeds:
        found = Shown(seed)
        for arm in run.arms:
            for trial in run.finished(arm):
                if trial.seed == seed:
                    _add(found, arm, storage.read_pictures(trial.folder / storage.PICTURES))
        if found.inputs:
            return found
    return None


def _add(found: Shown, arm: str, shown: Pictures | None) -> None:
    if shown is None:
        return
    found.inputs = found.inputs or _row(shown.inputs)
    for task, pictures in shown.truth.items():
        found.truth.setdefault(task, _row(pictures))
    for task, pictures in shown.outputs.items():
        found.arms.setdefault(task, {})[arm] = _row(pictures)


def _row(pictures: Tensor) -> list[Picture]:
    scale = max(1, round(SIDE / pictures.shape[1]))
    return [picture(each.numpy(), scale) for each in pictures]
