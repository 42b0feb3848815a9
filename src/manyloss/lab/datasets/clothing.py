"""Clothing: photos of ten kinds of clothes at 32x32, from ``clothing_32x32.npz``.

The file holds ``x_*`` uint8 [N, 32, 32, 3] and ``y_*`` [N] for train, validation and test: 3,068, 341 and 372
photos.
"""

from __future__ import annotations

import os

import numpy as np

from manyloss.lab.datasets.files import find_file, opened_npz
from manyloss.lab.datasets.labelled import TrainOnly

FILE = "clothing_32x32.npz"
CLASSES = 10


def load(data_root: str | os.PathLike[str]) -> TrainOnly:
    """The training photos under ``data_root`` or ``data_root/clothing``.

    Raises:
        DataError: the file is missing or damaged.

    """
    path = find_file("clothing", FILE, data_root)
    with opened_npz(path) as content:
        images, labels = content["x_train"], content["y_train"].astype(np.int64)
        if images.shape != (len(labels), 32, 32, 3) or labels.max() >= CLASSES:
            raise ValueError(f"x_train is {list(images.shape)}, y_train up to {labels.max()}")
    return TrainOnly(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels)
