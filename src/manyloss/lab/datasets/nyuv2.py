"""NYUv2 (Silberman et al. 2012) for users who have it: the official file, and two layouts in common use.

Official: ``nyu_depth_v2_labeled.mat`` beside the 13 classes of its pictures, ``nyuv2_train_class13.tgz`` and
``nyuv2_test_class13.tgz`` (or folders of these names, unpacked), whose file names say which pictures are for
training: ``new_nyu_class13_0001.png`` is the first, 0 is unlabelled. Normals are fitted to its filled depth.

Arrays: ``train`` and ``val`` with folders ``image``, ``depth``, ``normal`` and ``label``, each holding
``0.npy``, ``1.npy``, ...: colours 0..1 [H, W, 3], metres [H, W, 1], unit vectors [H, W, 3], classes [H, W]
from 0 to 12 (-1 is unlabelled).

Pictures: ``NAME.png`` beside ``depth_gt_NAME.png`` (16 bits, metres times 5000), ``norm_gt_NAME.png``
(components times 127.5 plus 127.5) and ``segm_gt_NAME.png`` (255 is unlabelled).
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import read_picture
from manyloss.lab.datasets.normals import Camera, normals_of

PARTS = ("image", "depth", "normal", "label")
PAGE = "the page of mtan (lorenmt), which links to the set"
LABELLED = "nyu_depth_v2_labeled.mat"
#: Split -> its archive of classes.
CLASSES = {"train": "nyuv2_train_class13.tgz", "test": "nyuv2_test_class13.tgz"}
LABELLED_PAGE = "the page of NYU Depth V2, and the classes from ankurhanda/nyuv2-meta-data"
#: Of the photos, as NYUv2's toolbox has it.
CAMERA = Camera(fx=518.857901, fy=519.469611, cx=325.582449, cy=253.736166)
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


class Scenes(Protocol):
    """A split, whose scenes are read when they are asked for."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Scene:
        """Scene ``index``."""
        ...


def load(data_root: str | os.PathLike[str], split: str) -> Scenes:
    """The scenes of ``split`` ("train" or "test"): the official file where it is, else the layout of arrays.

    Raises:
        DataError: neither is there, or one is not whole.

    """
    folders, arrays = _folders(data_root), "val" if split == "test" else split
    if any((folder / LABELLED).is_file() for folder in folders):
        return Labelled(data_root, split)
    if any((folder / arrays).is_dir() for folder in folders):
        return Arrays(data_root, arrays)
    first, *others = _array_files(arrays)
    official = [LABELLED, *CLASSES.values()]
    pages = f"{LABELLED_PAGE}, or {PAGE}"
    raise checks.missing_files("nyuv2", [*official, f"or else {first}", *others], folders, pages)


def _folders(data_root: str | os.PathLike[str]) -> tuple[Path, Path]:
    return Path(data_root), Path(data_root) / "nyuv2"


def _array_files(split: str) -> list[str]:
    return [f"{split}/{part}/0.npy ..." for part in PARTS]


class Labelled:
    """A split of the official file, with the 13 classes beside it."""

    def __init__(self, data_root: str | os.PathLike[str], split: str = "train") -> None:
        """Find the file and the classes of both splits under ``data_root`` or ``data_root/nyuv2``.

        Raises:
            DataError: one is missing or damaged, or pictures are without classes.

        """
        folders = _folders(data_root)
        found = next((folder for folder in folders if (folder / LABELLED).is_file()), None)
        if found is None:
            raise checks.missing_files("nyuv2", [LABELLED, *CLASSES.values()], folders, LABELLED_PAGE)
        self.file = found / LABELLED
        classes = {name: _class_pictures(found, archive) for name, archive in CLASSES.items()}
        with _opened_mat(self.file) as content:
            everyone = range(1, len(content["images"]) + 1)
        labelled = [number for numbers in classes.values() for number in numbers]
        if sorted(labelled) != list(everyone):
            raise checks.DataError(
                f"{self.file} has {len(everyone)} pictures; of {len(set(everyone) & set(labelled))} of them "
                f"the classes are beside it ({', '.join(CLASSES.values())}), where each must be once. Get "
                f"all three again, from {LABELLED_PAGE}: nothing is trained on a part of the set."
            )
        self.archive, self.classes = CLASSES[split], classes[split]
        self.numbers = sorted(self.classes)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Scene:
        """Scene ``index``.

        Raises:
            DataError: the file is damaged, or has other sizes than the classes.

        """
        number = self.numbers[index]
        with _opened_mat(self.file) as content:  # MATLAB's columns come first
            image = np.asarray(content["images"][number - 1]).T
            depth = np.asarray(content["depths"][number - 1], np.float32).T
        label = read_picture(self.file.parent / self.archive, self.classes[number])
        shapes = [list(each.shape) for each in (image, depth, label)]
        if shapes != [[*depth.shape, 3], [*depth.shape], [*depth.shape]]:
            raise checks.damaged_data(
                self.file, f"picture {number}: photo, depth and classes have the shapes {shapes}"
            )
        colours: Floats = (image / np.float32(255)).astype(np.float32)
        return Scene(colours, depth, normals_of(depth, CAMERA), label.astype(np.int64) - 1)


class Arrays:
    """A split of the layout of arrays: scenes are read when they are asked for."""

    def __init__(self, data_root: str | os.PathLike[str], split: str = "train") -> None:
        """Find the files of ``split`` ("train" or "val") under ``data_root`` or ``data_root/nyuv2``.

        Raises:
            DataError: a folder or some of its files are missing.

        """
        folders = _folders(data_root)
        found = next((folder / split for folder in folders if (folder / split).is_dir()), None)
        if found is None:
            raise checks.missing_files("nyuv2", _array_files(split), folders, PAGE)
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


@contextmanager
def _opened_mat(path: Path) -> Iterator[Mapping[str, Any]]:
    """The variables of a mat file of version 7.3.

    Raises:
        DataError: it is damaged, or lacks one.

    """
    import h5py

    try:
        with h5py.File(path, "r") as content:
            yield content
    except (OSError, KeyError, RuntimeError) as error:
        raise checks.damaged_data(path, str(error)) from error


def _class_pictures(folder: Path, archive: str) -> dict[int, bytes]:
    """Number of a picture in the official file, from 1 -> the file of its classes."""
    path, unpacked = folder / archive, folder / archive.removesuffix(".tgz")
    found: list[tuple[str, bytes]] = []
    if path.is_file():
        try:
            with tarfile.open(path) as opened:
                members = [(member.name, opened.extractfile(member)) for member in opened]
                found = [(name, content.read()) for name, content in members if content is not None]
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise checks.damaged_data(path, str(error)) from error
    elif unpacked.is_dir():
        found = [(each.name, each.read_bytes()) for each in unpacked.glob("*.png")]
    else:
        raise checks.missing_files("nyuv2", [archive], [folder], LABELLED_PAGE)
    named = [(re.search(r"class13_(\d+)\.png$", name), content) for name, content in found]
    return {int(match[1]): content for match, content in named if match is not None}


def _array(path: Path) -> npt.NDArray[np.generic]:
    try:
        found: npt.NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise checks.damaged_data(path, str(error) or type(error).__name__) from error
    return found
