"""SVHN: 32x32 colour photos of house digits, in the official MATLAB files of the cropped digits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import read_mat
from manyloss.lab.datasets.labelled import TrainAndTest

FILES = ("train_32x32.mat", "test_32x32.mat")


def load(data_root: str | os.PathLike[str]) -> TrainAndTest:
    """The 73,257 + 26,032 digits under ``data_root/svhn`` or ``data_root``.

    Raises:
        DataError: a file is missing or damaged.

    """
    root = Path(data_root)
    folders = (root / "svhn", root)
    for folder in folders:
        if all((folder / name).is_file() for name in FILES):
            return TrainAndTest(*_read(folder / FILES[0]), *_read(folder / FILES[1]))
    raise checks.missing_files("svhn", FILES, folders)


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """X is [32, 32, 3, N]; y holds 1..9 and 10 for the digit 0."""
    images, column = read_mat(path, "X", "y")
    labels = column.ravel()
    if images.shape[:3] != (32, 32, 3) or images.shape[3:] != labels.shape:
        reason = f"X is {list(images.shape)} and y {list(labels.shape)}, not [32, 32, 3, N] and [N, 1]"
        raise checks.damaged_data(path, reason)
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10
