"""CelebA (Liu et al. 2015): 202,599 faces with 40 attributes, in the official files.

``list_attr_celeba.txt`` holds the number of faces, the names of the attributes, and a line per face with its
file and 1 or -1 for each attribute; ``list_eval_partition.txt`` says for each file whether it is for training
(0), validation (1) or test (2); the aligned and cropped photos, 178x218, lie in ``img_align_celeba``. The
archives' own folders ``Anno``, ``Eval`` and ``Img`` may be kept. Made photos of the same kind need no file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from manyloss.lab import checks
from manyloss.lab.datasets.files import read_picture

FILES = ("list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba")
PAGE = "CelebA's page at the Chinese University of Hong Kong"
PARTS = ("train", "validation", "test")
ATTRIBUTES = 40


class Faces(NamedTuple):
    """The ``files`` of N photos and their ``attributes`` uint8 [N, 40], 1 where the face has it."""

    files: Sequence[Path]
    attributes: npt.NDArray[np.uint8]


class Celeba(NamedTuple):
    """The official three parts, and the names of the attributes."""

    train: Faces
    validation: Faces
    test: Faces
    names: tuple[str, ...]


def load(data_root: str | os.PathLike[str]) -> Celeba:
    """The faces under ``data_root`` or ``data_root/celeba``; photos are read when they are needed.

    Raises:
        DataError: a file or a photo is missing, or a list is damaged.

    """
    root = Path(data_root)
    folders = (root, root / "celeba")
    for folder in folders:
        found = [_inside(folder, name) for name in FILES]
        if all(found):
            attributes, partition, photos = (path for path in found if path is not None)
            return _read(attributes, partition, photos)
    raise checks.missing_files("celeba", FILES, folders, PAGE)


def _inside(folder: Path, name: str) -> Path | None:
    places = (folder / part / name for part in ("", "Anno", "Eval", "Img"))
    return next((path for path in places if path.exists()), None)


def _read(attributes: Path, partition: Path, photos: Path) -> Celeba:
    lines = attributes.read_text(encoding="utf-8").splitlines()
    try:
        count, names = int(lines[0]), tuple(lines[1].split())
        rows = [line.split() for line in lines[2:] if line.strip()]
        files = [row[0] for row in rows]
        values = np.array([row[1:] for row in rows]).astype(np.int64)
    except (ValueError, IndexError) as error:
        raise checks.damaged_data(attributes, str(error)) from error
    if values.shape != (count, len(names)) or not np.isin(values, (-1, 1)).all():
        reason = f"it names {count} faces and {len(names)} attributes and has {list(values.shape)} of 1 or -1"
        raise checks.damaged_data(attributes, reason)
    part_of = dict(
        line.split() for line in partition.read_text(encoding="utf-8").splitlines() if line.strip()
    )
    parts = np.array([part_of.get(file, "none") for file in files])
    if not np.isin(parts, ("0", "1", "2")).all():
        nowhere = files[int(np.argmin(np.isin(parts, ("0", "1", "2"))))]
        raise checks.damaged_data(partition, f"{nowhere} is in none of the parts 0, 1 and 2")
    there = {entry.name for entry in os.scandir(photos)}
    missing = [file for file in files if file not in there]
    if missing:
        raise checks.part_of_a_set(photos, len(missing), count, missing[0], PAGE)
    found = []
    for number in range(len(PARTS)):
        places = np.flatnonzero(parts == str(number))
        found.append(Faces([photos / files[i] for i in places], (values[places] > 0).astype(np.uint8)))
    train, validation, test = found
    return Celeba(train, validation, test, names)


def photo(file: Path, size: int) -> npt.NDArray[np.uint8]:
    """The middle square of a photo at ``size`` x ``size``: [3, S, S].

    Raises:
        DataError: it is no picture.

    """
    picture = Image.fromarray(read_picture(file)).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def made(count: int, size: int = 32, *, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images uint8 [N, 3, S, S] with 40 attributes uint8 [N, 40]: each lights a tile of its own, in noise."""
    generator = np.random.default_rng(seed)
    rare = np.linspace(0.1, 0.6, ATTRIBUTES)
    attributes = (generator.random((count, ATTRIBUTES)) < rare).astype(np.uint8)
    tiles = np.zeros((count, 49), np.uint8)
    tiles[:, :ATTRIBUTES] = attributes
    light = tiles.reshape(count, 7, 7).repeat(size // 7, 1).repeat(size // 7, 2)  # [N, S', S']
    edge = size - light.shape[1]
    light = np.pad(light, ((0, 0), (0, edge), (0, edge)))
    noise = generator.normal(0, 30, (count, 3, size, size))
    images = (80 + 100 * light[:, None] + noise).clip(0, 255).astype(np.uint8)
    return images, attributes
