"""CamVid: street scenes of 120x160 in 11 classes, from ``camvid_120x160.npz``.

The file holds ``x_train``, ``x_val`` and ``x_test`` uint8 [N, 120, 160, 3] with classes ``y_*`` uint8
[N, 120, 160] in SegNet's order; 11 is unlabelled. There are 367, 101 and 233 images.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab.datasets.files import find_file, opened_npz

FILE = "camvid_120x160.npz"
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "cyclist",
)
UNLABELLED = len(CLASSES)
COARSE_CLASSES = ("sky", "built", "ground", "tree", "moving")
#: Fine class -> coarse class; what is unlabelled stays so, as 5.
TO_COARSE = np.array([0, 1, 1, 2, 2, 3, 1, 1, 4, 4, 4, 5], np.uint8)


class Streets(NamedTuple):
    """``images`` uint8 [N, H, W, 3] and ``classes`` uint8 [N, H, W], 11 where unlabelled."""

    images: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]

    @property
    def coarse(self) -> npt.NDArray[np.uint8]:
        """`COARSE_CLASSES` [N, H, W], 5 where unlabelled."""
        return TO_COARSE[self.classes]


class CamVid(NamedTuple):
    """The official three parts."""

    train: Streets
    validation: Streets
    test: Streets


def load(data_root: str | os.PathLike[str]) -> CamVid:
    """The images under ``data_root`` or ``data_root/camvid``.

    Raises:
        DataError: the file is missing or damaged.

    """
    path = find_file("camvid", FILE, data_root)
    parts = []
    with opened_npz(path) as content:
        for name in ("train", "val", "test"):
            images, classes = content[f"x_{name}"], content[f"y_{name}"]
            if images.shape != (*classes.shape, 3) or classes.max() > UNLABELLED:
                shapes = f"x_{name} is {list(images.shape)}, y_{name} {list(classes.shape)}"
                raise ValueError(f"{shapes} up to {classes.max()}")
            parts.append(Streets(images, classes))
    return CamVid(*parts)
