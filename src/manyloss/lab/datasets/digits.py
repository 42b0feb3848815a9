"""The 1,797 handwritten digits inside scikit-learn: 8x8 grey, no download."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits


class Digits(NamedTuple):
    """``images`` uint8 [1797, 8, 8] on the scale 0..255, ``labels`` int64 [1797]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    source: str


def load() -> Digits:
    """All digits; their sixteen grey levels are spread over 0..255."""
    values, labels = load_digits(return_X_y=True)
    images = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Digits(images, labels.astype(np.int64), "scikit-learn, 1,797 digits")
