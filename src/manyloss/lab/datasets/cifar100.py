"""CIFAR-100: 32x32 colour images of 100 classes, in the official binary layout (``cifar-100-binary``).

A record of ``train.bin`` (50,000) or ``test.bin`` (10,000) is a coarse label, a fine label, and the red,
green and blue planes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.labelled import TrainAndTest

FOLDER = "cifar-100-binary"
FILES = ("train.bin", "test.bin")
PAGE = "the CIFAR page of Toronto's university"
CLASSES = 100
_RECORD = 2 + 3 * 32 * 32


def load(data_root: str | os.PathLike[str]) -> TrainAndTest:
    """The images under ``data_root/cifar-100-binary`` or ``data_root``.

    Raises:
        DataError: a file is missing or damaged.

    """
    root = Path(data_root)
    folders = (root / FOLDER, root)
    for folder in folders:
        if all((folder / name).is_file() for name in FILES):
            return TrainAndTest(*_read(folder / FILES[0]), *_read(folder / FILES[1]))
    raise checks.missing_files("cifar100", FILES, folders, PAGE)


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % _RECORD:
        raise checks.damaged_data(path, f"{content.size} bytes are no whole number of {_RECORD}-byte records")
    records = content.reshape(-1, _RECORD)
    labels = records[:, 1].astype(np.int64)
    if labels.max() >= CLASSES:
        raise checks.damaged_data(path, f"a fine label is {labels.max()}, and they go up to {CLASSES - 1}")
    return records[:, 2:].reshape(-1, 3, 32, 32), labels
