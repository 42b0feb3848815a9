"""NYUv2 (Silberman et al. 2012) for users who have it, in two layouts that are in common use.

Arrays: ``train`` and ``val`` with folders ``image``, ``depth``, ``normal`` and ``label``, each holding
``0.npy``, ``1.npy``, ...: colours 0..1 [H, W, 3], metres [H, W, 1], unit vectors [H, W, 3], classes [H, W]
from 0 to 12 (-1 is unlabelled).

Pictures: ``NAME.png`` beside ``depth_gt_NAME.png`` (16 bits, metres times 5000), ``norm_gt_NAME.png``
(components times 127.5 plus 127.5) and ``segm_gt_NAME.png`` (255 is unlabelled).

The official ``nyu_depth_v2_labeled.mat`` has neither normals nor the 13 classes, so it is not read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import read_picture

PARTS = ("image", "depth", "normal", "label")
LABELLED = "nyu_depth_v2_labeled.mat"
PAGE = "the page of mtan (lorenmt), which links to the set"
UNLABELLED = -1
PICTURES: Mapping[str, str] = {"depth": "depth_gt_", "normal": "norm_gt_", "label": "segm_gt_"}

Floats = npt.NDArray[np.float32]


class Scene(NamedTuple):
    """What is known of one photo.

    ``image`` float32 [H, W, 3] in 0..1, ``depth`` [H, W] in metres (0: unknown), ``normals`` [H, W, 3] and
    ``classes`` int64 [H, W], -1 where unlabelled.
    """

    image: Floats
    depth: Floats
    normals: Floats
    classes: npt.NDArray[np.int64]


class Arrays:
    """A split of the layout of arrays: scenes are read when they are asked for."""

    def __init__(self, data_root: str | os.PathLike[str], split: str = "train") -> None:
        """Find the files of ``split`` ("train" or "val") under ``data_root`` or ``data_root/nyuv2``.

        Raises:
            DataError: a folder or some of its files are missing.

        """
        root = Path(data_root)
        folders = (root, root / "nyuv2")
        found = next((folder / split for folder in folders if (folder / split).is_dir()), None)
        if found is None:
            if labelled := next((path for folder in folders if (path := folder / LABELLED).is_file()), None):
                raise checks.DataError(
                    f"{labelled} has neither surface normals nor the 13 classes. Put the converted set "
                    f"beside it: {split}/image, depth, normal and label with 0.npy, 1.npy, ..., as {PAGE} "
                    f"has it."
                )
            files = [f"{split}/{part}/0.npy ..." for part in PARTS]
            raise checks.missing_files("nyuv2", files, folders, PAGE)
        names = {part: {path.name for path in (found / part).glob("*.npy")} for part in PARTS}
        everything = set().union(*names.values())
        for part, there in names.items():
            missing = sorted(everything - there, key=lambda name: (len(name), name))
            if missing or not there:
                raise checks.part_of_a_set(
                    found / part, len(missing), len(everything), missing[0] if missing else "0.npy", PAGE
                )
        self.folder = found
        self.names = sorted(everything, key=lambda name: (len(name), name))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        """Scene ``index``."""
        image, depth, normal, label = (_array(self.folder / part / self.names[index]) for part in PARTS)
        size = label.shape
        shapes = [list(each.shape) for each in (image, depth, normal, label)]
        if label.ndim != 2 or shapes[:3] != [[*size, 3], [*size, 1], [*size, 3]]:
            raise checks.damaged_data(self.folder, f"{self.names[index]} has the shapes {shapes}")
        return Scene(
            image.astype(np.float32),
            depth[:, :, 0].astype(np.float32),
            normal.astype(np.float32),
            label.astype(np.int64),
        )


def pictures(folder: str | os.PathLike[str]) -> dict[str, Scene]:
    """Every scene of a folder of pictures that is there with all four, by name.

    Raises:
        DataError: there is none.

    """
    root = Path(folder)
    names = sorted(path.stem.removeprefix("depth_gt_") for path in root.glob("depth_gt_*.png"))
    whole = [
        name
        for name in names
        if all((root / f"{prefix}{name}.png").is_file() for prefix in ("", *PICTURES.values()))
    ]
    if not whole:
        files = ["NAME.png", *(f"{prefix}NAME.png" for prefix in PICTURES.values())]
        raise checks.missing_files("nyuv2", files, [root])
    return {name: _scene(root, name) for name in whole}


def _scene(root: Path, name: str) -> Scene:
    image, depth, normal, label = (read_picture(root / f"{p}{name}.png") for p in ("", *PICTURES.values()))
    normals = normal.astype(np.float32) / np.float32(127.5) - 1
    classes = label.astype(np.int64)
    classes[classes == 255] = UNLABELLED
    colours: Floats = (image.astype(np.float32) / 255).astype(np.float32)
    metres: Floats = (depth.astype(np.float32) / 5000).astype(np.float32)
    return Scene(colours, metres, normals.astype(np.float32), classes)


def _array(path: Path) -> npt.NDArray[np.generic]:
    try:
        found: npt.NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise checks.damaged_data(path, str(error) or type(error).__name__) from error
    return found
