"""SUN RGB-D (Song et al. 2015) for users who have it: photos, depth, 37 fine and 13 coarse classes.

The folder holds the official ``SUNRGBD/`` tree, and of the repository sunrgbd-meta-data the two lists
``sunrgbd_training_images.txt`` (5,285 lines such as ``SUNRGBD/kv2/.../image/0000103.jpg``) and
``sunrgbd_testing_images.txt`` (5,050), and the unpacked labels ``sunrgbd_train_test_labels/img-000001.png``:
first those of the test images, then those of the training images; 0 is unlabelled. The depth of
``X/image/NAME.jpg`` is the one picture in ``X/depth_bfx``: 16 bits, rotated left by 13, in millimetres.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import find_file, read_picture

LISTS = {"train": "sunrgbd_training_images.txt", "test": "sunrgbd_testing_images.txt"}
LABELS = "sunrgbd_train_test_labels"
PAGE = "the pages of SUN RGB-D (rgbd.cs.princeton.edu) and of ankurhanda/sunrgbd-meta-data"
UNLABELLED = -1
FINE_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
    "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
    "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag",
)  # fmt: skip
#: NYUv2's 13, each with the fine classes that it holds; "objects" has all others.
COARSE_CLASSES = {
    "bed": "bed",
    "books": "books",
    "ceiling": "ceiling",
    "chair": "chair",
    "floor": "floor, floor mat",
    "furniture": "cabinet, bookshelf, counter, shelves, dresser, night stand",
    "objects": "",
    "picture": "picture, whiteboard",
    "sofa": "sofa",
    "table": "table, desk",
    "tv": "television",
    "wall": "wall, door",
    "window": "window, blinds, curtain",
}
_PLACES = {fine: i for i, names in enumerate(COARSE_CLASSES.values()) for fine in names.split(", ")}
#: Fine class -> coarse class.
TO_COARSE = np.array([_PLACES.get(fine, list(COARSE_CLASSES).index("objects")) for fine in FINE_CLASSES])


class Photo(NamedTuple):
    """``image`` uint8 [H, W, 3], ``depth`` float32 [H, W] in metres (0: unknown), ``classes`` int64 [H, W],
    `FINE_CLASSES`, -1 where unlabelled.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


class SunRgbd:
    """A split, whose photos are read when they are asked for."""

    def __init__(self, data_root: str | os.PathLike[str], split: str = "train") -> None:
        """Find the files of ``split`` ("train" or "test") under ``data_root`` or ``data_root/sunrgbd``.

        Raises:
            DataError: a list or some of the files that it names are missing.

        """
        lists = {name: find_file("sunrgbd", file, data_root, page=PAGE) for name, file in LISTS.items()}
        root = lists[split].parent
        names = {name: path.read_text(encoding="utf-8").split() for name, path in lists.items()}
        first = 1 if split == "test" else 1 + len(names["test"])
        self.images = [root / name for name in names[split]]
        self.labels = [root / LABELS / f"img-{first + place:06d}.png" for place in range(len(self.images))]
        self.depths = [
            next(iter(sorted((p.parent.parent / "depth_bfx").glob("*.png"))), None) for p in self.images
        ]
        wanted = [*zip(self.images, self.labels, strict=True)]
        missing = [str(path) for pair in wanted for path in pair if not path.is_file()]
        missing += [
            str(image.parent.parent / "depth_bfx")
            for image, depth in zip(self.images, self.depths, strict=True)
            if depth is None
        ]
        if missing:
            raise checks.part_of_a_set(root, len(missing), 3 * len(wanted), missing[0], PAGE)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Photo:
        """Photo ``index``.

        Raises:
            DataError: a file is damaged, or the three have different sizes.

        """
        depth_file = self.depths[index]
        assert depth_file is not None
        image, label, depth = (read_picture(p) for p in (self.images[index], self.labels[index], depth_file))
        shapes = [list(each.shape) for each in (image, label, depth)]
        if shapes != [[*label.shape[:2], 3], [*label.shape[:2]], [*label.shape[:2]]]:
            raise checks.damaged_data(
                self.images[index], f"photo, classes and depth have the shapes {shapes}"
            )
        stored = depth.astype(np.uint16)
        millimetres = (stored >> 3) | (stored << 13)
        return Photo(
            image.astype(np.uint8),
            (millimetres / np.float32(1000)).astype(np.float32),
            label.astype(np.int64) - 1,
        )
