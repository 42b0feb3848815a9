"""ImageNet at 32x32 (Chrabaszcz et al. 2017): 1,281,167 images of 1,000 classes, in the official npz files.

``train_data_batch_1.npz`` to ``train_data_batch_10.npz`` hold ``data`` uint8 [N, 3072], the red, green and
blue planes of each image, and ``labels`` [N] from 1 to 1,000.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import opened_npz
from manyloss.lab.datasets.labelled import TrainOnly

FOLDERS = ("Imagenet32_train_npz", "imagenet32", "")
FILES = tuple(f"train_data_batch_{number}.npz" for number in range(1, 11))
PAGE = "ImageNet's download page"
CLASSES = 1000


def load(data_root: str | os.PathLike[str]) -> TrainOnly:
    """The ten batches under ``data_root/Imagenet32_train_npz``, ``data_root/imagenet32`` or ``data_root``.

    Raises:
        DataError: a batch is missing or damaged.

    """
    folders = [Path(data_root) / folder for folder in FOLDERS]
    for folder in folders:
        if all((folder / name).is_file() for name in FILES):
            images, labels = zip(*(_read(folder / name) for name in FILES), strict=True)
            return TrainOnly(np.concatenate(images), np.concatenate(labels))
    raise checks.missing_files("imagenet32", FILES, folders, PAGE)


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    with opened_npz(path) as content:
        images, labels = content["data"], content["labels"].astype(np.int64).ravel()
        if images.shape != (len(labels), 3072):
            raise ValueError(f"data is {list(images.shape)}, not [{len(labels)}, 3072]")
        if labels.min() < 1 or labels.max() > CLASSES:
            raise ValueError(f"labels go from {labels.min()} to {labels.max()}, not from 1 to {CLASSES}")
    return images.reshape(-1, 3, 32, 32), labels - 1
