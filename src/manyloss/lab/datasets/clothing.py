"""Clothing: photos of ten kinds of clothes at 32x32, from ``clothing_32x32.npz``.

The file holds ``x_*`` uint8 [N, 32, 32, 3] and ``y_*`` [N] for train, validation and test: 3,068, 341 and 372
photos.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab.datasets.files import find_file, opened_npz

FILE = "clothing_32x32.npz"
CLASSES = 10


class Clothing(NamedTuple):
    """``images`` uint8 [N, 3, 32, 32] and ``labels`` int64 [N] of the training photos."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def load(data_root: str | os.PathLike[str]) -> Clothing:
    """The training photos under ``data_root`` or ``data_root/clothing``.

    Raises:
        DataError: the file is missing or damaged.

    """
    path = find_file("clothing", FILE, data_root)
    with opened_npz(path) as content:
        images, labels = content["x_train"], content["y_train"].astype(np.int64)
        if images.shape != (len(labels), 32, 32, 3) or labels.max() >= CLASSES:
            raise ValueError(f"x_train is {list(images.shape)}, y_train up to {labels.max()}")
    return Clothing(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels)
