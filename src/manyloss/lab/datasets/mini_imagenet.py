"""mini-ImageNet as GREAT 2018 uses it: 200 classes of ImageNet, 500 training and 50 test images of each.

The layout is one folder per class: ``train/CLASS/*.JPEG`` and ``test/CLASS/*.JPEG`` (or ``val``), images of
any size, also one level deeper (``train/CLASS/images/``). Made images of the same kind need no files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from manyloss.lab import checks

SUFFIXES = (".jpeg", ".jpg", ".png")
#: image size -> shorter side after resizing (supplement).
SHORTER_SIDE = {64: 70, 224: 256}
#: In training the shorter side is drawn from here up to the next number times it: the paper gives no range.
LARGEST_SCALE = 1.25
FOLDERS = ("mini-imagenet", "")

Picture = Path | npt.NDArray[np.uint8]


class Pictures(NamedTuple):
    """Images [N] (files, or arrays [height, width, 3]) with labels int64 [N], and the classes' names."""

    train: Sequence[Picture]
    train_labels: npt.NDArray[np.int64]
    test: Sequence[Picture]
    test_labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def load(data_root: str | os.PathLike[str]) -> Pictures:
    """The images under ``data_root/mini-imagenet`` or ``data_root``.

    Raises:
        DataError: a folder is missing, or training and test have other classes.

    """
    folders = [Path(data_root) / folder for folder in FOLDERS]
    for folder in folders:
        test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
        if (folder / "train").is_dir() and test is not None:
            classes = _classes(folder / "train")
            if classes != _classes(test):
                raise checks.damaged_data(folder, "train and test do not hold the same classes")
            return Pictures(*_files(folder / "train", classes), *_files(test, classes), classes)
    raise checks.missing_files("mini-imagenet", ["train/CLASS/*.JPEG", "test/CLASS/*.JPEG"], folders)


def made(classes: int, per_class: int, *, spread: float = 0.0, seed: int = 0) -> Pictures:
    """Stripes of a direction, a width and a colour per class, under noise; the pictures differ in shape.

    Args:
        classes: how many.
        per_class: pictures of each in the training set; the test set has as many.
        spread: standard deviation of a picture's direction (over half a turn), width and colour about its
            class's, which are uniform in 0..1. Classes begin to overlap at about 0.1.
        seed: of the pictures.

    """
    generator = np.random.default_rng(seed)
    styles = generator.random((classes, 5))
    labels = np.repeat(np.arange(classes), per_class)

    def picture(label: int) -> Picture:
        style = styles[label] + spread * generator.standard_normal(5)
        style[1:] = style[1:].clip(0, 1)  # the direction is periodic
        return _striped(style, generator)

    train, test = ([picture(label) for label in labels.tolist()] for _ in range(2))
    names = tuple(f"class {number:03}" for number in range(classes))
    return Pictures(train, labels, test, labels, names)


def _striped(style: npt.NDArray[np.float64], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    height, width = generator.integers(72, 110, 2)
    rows, columns = np.mgrid[:height, :width]
    angle = np.pi * style[0]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    stripes = 0.5 + 0.5 * np.sin(along / (2 + 6 * style[1]) + 2 * np.pi * generator.random())
    noisy = stripes[:, :, None] * style[2:] + 0.1 * generator.standard_normal((height, width, 3))
    pixels: npt.NDArray[np.uint8] = (255 * noisy.clip(0, 1)).astype(np.uint8)
    return pixels


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(item.name for item in folder.iterdir() if item.is_dir()))


def _files(folder: Path, classes: Sequence[str]) -> tuple[list[Picture], npt.NDArray[np.int64]]:
    files: list[Picture] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        of_class = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not of_class:
            raise checks.damaged_data(folder / name, "no image in it")
        files += of_class
        labels += [number] * len(of_class)
    return files, np.array(labels, np.int64)


class CroppedPictures:
    """A split: every picture is resized and cropped when it is needed, to ``size`` x ``size``.

    In training the shorter side becomes `SHORTER_SIDE` times a random scale, and the crop lies anywhere; in
    evaluation it is `SHORTER_SIDE` and the crop is the middle.
    """

    def __init__(self, pictures: Sequence[Picture], labels: npt.NDArray[np.int64], size: int) -> None:
        if size not in SHORTER_SIDE:
            raise checks.no_such_image_size(size, SHORTER_SIDE)
        self.pictures, self.size = pictures, size
        self.labels = torch.from_numpy(labels)
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]: [B, 3, size, size] in [0, 1] and the labels [B]."""
        draws = torch.full((len(indices), 3), 0.5)
        if generator is not None:
            draws = torch.rand((len(indices), 3), generator=generator)
        scales = 1 + (LARGEST_SCALE - 1) * draws[:, 0] if generator is not None else torch.ones(len(indices))
        if self._threads is None:  # decoding leaves Python's lock
            self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        cropped = self._threads.map(self._crop, indices.tolist(), scales.tolist(), draws[:, 1:].tolist())
        images = torch.from_numpy(np.stack(list(cropped))).permute(0, 3, 1, 2)
        return images.contiguous() / 255, {"class": self.labels[indices]}

    def _crop(self, index: int, scale: float, place: Sequence[float]) -> npt.NDArray[np.uint8]:
        found = self.pictures[index]
        try:
            image = Image.fromarray(found) if isinstance(found, np.ndarray) else Image.open(found)
            with image:
                rgb = image.convert("RGB")
        except OSError as error:
            raise checks.damaged_data(found, str(error)) from error
        shorter = round(SHORTER_SIDE[self.size] * scale)
        factor = shorter / min(rgb.size)
        width, height = (max(shorter, round(side * factor)) for side in rgb.size)
        left, top = (
            min(int(at * (side - self.size + 1)), side - self.size)
            for at, side in zip(place, (width, height), strict=True)
        )
        resized = rgb.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))
