"""MTFL, the faces of TCDCN (Zhang et al. 2014): five landmarks and four attributes of 10,000 + 2,995 faces.

The files are crops: ``mtfl_faces_40.npz`` holds grey bytes ``x_train`` and ``x_test`` [N, 40, 40],
``mtfl_faces_160.npz`` a JPEG per face, one after another in ``jpeg_train`` and ``jpeg_test``; face i lies in
bytes ``offset_train[i]`` to ``offset_train[i + 1]``. Both hold ``landmarks_*`` [N, 5, 2], (x, y) in units of
the crop's side, and ``attributes_*`` [N, 4], counted from 1. Made faces of the same kind need no file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from manyloss.lab import checks
from manyloss.lab.datasets.files import find_file, opened_npz

LANDMARKS = ("left eye", "right eye", "nose", "left lip", "right lip")
ATTRIBUTES = ("gender", "smile", "glasses", "pose")
SIZES = (40, 160)
#: Where the landmarks of the training faces are on average.
MEAN_SHAPE = ((0.344, 0.395), (0.677, 0.390), (0.510, 0.595), (0.370, 0.756), (0.659, 0.753))
#: Of the five poses, from left to right, the one that looks into the camera.
FRONTAL = 3

Floats = npt.NDArray[np.float64]


class Faces(NamedTuple):
    """Grey ``images`` uint8 [N, S, S], ``landmarks`` float32 [N, 5, 2] and ``attributes`` int64 [N, 4].

    Landmarks are (x, y) in units of the image's side. Attributes count from 1: male or female, smiling or
    not, with glasses or without, and the pose from 1 (left profile) to 5 (right profile).
    """

    images: npt.NDArray[np.uint8]
    landmarks: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.int64]


class Mtfl(NamedTuple):
    """Photos from the web and LFW to train on, AFLW's to test on: the two differ."""

    train: Faces
    test: Faces


def load(data_root: str | os.PathLike[str], size: int = 40) -> Mtfl:
    """The faces under ``data_root`` or ``data_root/mtfl``, ``size`` x ``size``.

    Raises:
        DataError: another size than 40 or 160, or the file is missing or damaged.

    """
    if size not in SIZES:
        raise checks.DataError(f"There are no faces of {size} pixels. Known: {', '.join(map(str, SIZES))}.")
    path = find_file("mtfl", f"mtfl_faces_{size}.npz", data_root)
    with opened_npz(path) as content:
        return Mtfl(_faces(content, "train", size), _faces(content, "test", size))


def _faces(content: Mapping[str, Any], split: str, size: int) -> Faces:
    landmarks = content[f"landmarks_{split}"].astype(np.float32)
    attributes = content[f"attributes_{split}"].astype(np.int64)
    if f"x_{split}" in content:
        images = content[f"x_{split}"]
    else:
        images = _decoded(content[f"jpeg_{split}"], content[f"offset_{split}"])
    count = len(images)
    shapes = {"images": images.shape, "landmarks": landmarks.shape, "attributes": attributes.shape}
    expected = {"images": (count, size, size), "landmarks": (count, 5, 2), "attributes": (count, 4)}
    if shapes != expected:
        raise ValueError(f"the {split} split has {shapes}, not {expected}")
    return Faces(images, landmarks, attributes)


def _decoded(stream: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """JPEG files one after another -> grey images [N, S, S]."""
    files = (stream[begin:end].tobytes() for begin, end in pairwise(offsets))
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("L")) for file in files])


# -- made faces -------------------------------------------------------------------------------------------


def made(train: int = 512, test: int = 128, size: int = 40, *, seed: int = 0) -> Mtfl:
    """Drawn faces with the same labels: an oval with hair, eyes, a nose and a mouth that may smile."""
    generator = np.random.default_rng(seed)
    return Mtfl(_drawn(train, size, generator), _drawn(test, size, generator))


def _drawn(count: int, size: int, generator: np.random.Generator) -> Faces:
    female, serious, bare = (generator.integers(0, 2, count) for _ in range(3))
    pose = generator.choice(5, count, p=[0.05, 0.1, 0.7, 0.1, 0.05])
    turned = (pose - 2) / 2  # [-1, 1]
    centre = 0.5 + 0.03 * generator.standard_normal((count, 2))
    half = 0.16 + 0.015 * generator.standard_normal(count)  # half the distance of the eyes
    mean_shape = np.array([(-1.0, -0.6), (1.0, -0.6), (0.0, 0.5), (-0.8, 1.5), (0.8, 1.5)])
    shape = mean_shape + 0.05 * generator.standard_normal((count, 5, 2))
    shape[:, 2, 0] += 0.6 * turned
    landmarks = centre[:, None] + half[:, None, None] * shape  # [N, 5, 2]

    grid = (np.arange(size) + 0.5) / size
    x, y = grid[None, None, :], grid[None, :, None]

    def ring(at: Floats, radius: float | Floats, width: float) -> Floats:
        """A circle's line around ``at`` [N, 2]; radius 0 is a dot. [N, S, S]"""
        distance = np.hypot(x - at[:, 0, None, None], y - at[:, 1, None, None])
        line: Floats = np.exp(-(((distance - radius) / width) ** 2))
        return line

    def shown(condition: npt.NDArray[Any]) -> Floats:
        return condition.astype(float)[:, None, None]

    image = 0.35 + 0.35 * (np.hypot((x - centre[:, 0, None, None]) / 0.8, y - 0.5) < 0.42)
    image = image + 0.25 * (x - 0.5) * turned[:, None, None]
    image = image - 0.3 * (np.abs(x - 0.5) > 0.33) * shown(female == 1)  # long hair
    mouth = landmarks[:, 3:].mean(1)
    lift = (0.35 * half)[:, None, None] * np.where(serious, 0.0, 1.0)[:, None, None]
    along = (x - mouth[:, 0, None, None]) / (0.8 * half)[:, None, None]
    lip = np.exp(-(((y - mouth[:, 1, None, None] - lift * (1 - along**2)) / 0.02) ** 2)) * (np.abs(along) < 1)
    image = image - 0.4 * lip - 0.2 * ring(landmarks[:, 2], 0.0, 0.04)
    for eye in (0, 1):
        image = image - 0.5 * ring(landmarks[:, eye], 0.0, 0.035)
        image = image - 0.4 * shown(bare == 0) * ring(landmarks[:, eye], 0.5 * half[:, None, None], 0.02)
    image = image + 0.03 * generator.standard_normal(image.shape)
    return Faces(
        (255 * image.clip(0, 1)).astype(np.uint8),
        landmarks.astype(np.float32),
        np.stack([female, serious, bare, pose], axis=1).astype(np.int64) + 1,
    )
