"""USPS: 16x16 grey handwritten digits, from ``usps_all.mat``."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import find_file, read_mat

FILE = "usps_all.mat"
TRAINING = 7291  # of 9,298: the official training set comes first


class Usps(NamedTuple):
    """``images`` uint8 [N, 16, 16] and ``labels`` int64 [N] of the training and the test set."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


def load(data_root: str | os.PathLike[str]) -> Usps:
    """The 7,291 + 2,007 digits under ``data_root`` or ``data_root/usps``.

    Each row of the file's ``usps_all`` [9298, 257] is an image and then its digit, counted from 1.

    Raises:
        DataError: the file is missing or damaged.

    """
    path = find_file("usps", FILE, data_root)
    (rows,) = read_mat(path, "usps_all")
    if rows.ndim != 2 or rows.shape[1] != 257 or len(rows) <= TRAINING:
        raise checks.damaged_data(path, f"usps_all is {list(rows.shape)}, not [9298, 257]")
    images = rows[:, :256].reshape(-1, 16, 16)
    labels = rows[:, 256].astype(np.int64) - 1
    return Usps(images[:TRAINING], labels[:TRAINING], images[TRAINING:], labels[TRAINING:])
