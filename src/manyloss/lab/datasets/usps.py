"""USPS: 16x16 grey handwritten digits, from ``usps_all.mat``."""

from __future__ import annotations

import os

import numpy as np

from manyloss.lab import checks
from manyloss.lab.datasets.files import find_file, read_mat
from manyloss.lab.datasets.labelled import TrainAndTest

FILE = "usps_all.mat"
TRAINING = 7291  # of 9,298: the official training set comes first


def load(data_root: str | os.PathLike[str]) -> TrainAndTest:
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
    return TrainAndTest(images[:TRAINING], labels[:TRAINING], images[TRAINING:], labels[TRAINING:])
