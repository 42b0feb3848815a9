"""Waymo's frames as converted to KITTI's layout: point clouds with the boxes of vehicles.

``training`` (or the folder itself) holds ``velodyne/NAME.bin``, float32 numbers, x, y, z and intensity first;
``calib/NAME.txt`` with ``R0_rect`` and ``Tr_velo_to_cam`` (or ``Tr_velo_to_cam_0``); and, in ``label_all``
or ``label_2``, ``NAME.txt`` with a line per object: type, truncated, occluded, alpha, four numbers of its
rectangle, height, width, length, x, y, z of the middle of its floor, and its turn around the
camera's vertical axis.
``ImageSets/train.txt`` and ``val.txt`` name the frames. Vehicles are of the types Car and Vehicle.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.lidar import Cloud

PAGE = "Waymo's open data page, with a converter to KITTI's layout"
PARTS = {"train": "train.txt", "test": "val.txt"}
VEHICLES = ("Car", "Vehicle", "CAR", "VEHICLE")
LABELS = ("label_all", "label_2")
#: Numbers of a point: KITTI's, and those of the converters that keep Waymo's elongation and more.
POINTS = (4, 5, 6)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The files of one frame."""

    points: Path
    labels: Path
    calibration: Path
    numbers: int = 4

    def read(self) -> Cloud:
        """Its points [N, 4], intensity in 0..1, and the boxes of its vehicles [M, 7] in the points' axes.

        Raises:
            DataError: a file is damaged.

        """
        values = np.fromfile(self.points, np.float32)
        if values.size % self.numbers:
            raise checks.damaged_data(self.points, f"{values.size} numbers, not {self.numbers} per point")
        points = values.reshape(-1, self.numbers)[:, :4].copy()
        points[:, 3] = np.tanh(points[:, 3].clip(min=0))  # Waymo's has a long tail; KITTI's is in 0..1
        return Cloud(points, _boxes(self.labels, _to_points(self.calibration)).astype(np.float32))


class Frames(NamedTuple):
    """The frames to train on, and those to test on."""

    train: list[Frame]
    test: list[Frame]


def load(data_root: str | os.PathLike[str], numbers: int = 6) -> Frames:
    """The frames under ``data_root/waymo/kitti_format``, ``data_root/waymo`` or ``data_root``.

    Args:
        data_root: the data folder.
        numbers: how many each point has in its file: 6 from the common converters, 4 in KITTI itself.

    Raises:
        DataError: a list, a folder or a frame is missing.

    """
    if numbers not in POINTS:
        raise checks.DataError(f"A point has 4, 5 or 6 numbers, not {numbers}.")
    root = Path(data_root)
    folders = (root / "waymo" / "kitti_format", root / "waymo", root)
    for folder in folders:
        if all((folder / "ImageSets" / name).is_file() for name in PARTS.values()):
            return Frames(*(_listed(folder, name, numbers) for name in PARTS.values()))
    names = [f"ImageSets/{name}" for name in PARTS.values()]
    names = [*names, "training/velodyne", "training/calib", "training/label_all"]
    raise checks.missing_files("waymo", names, folders, PAGE)


def _listed(folder: Path, list_name: str, numbers: int) -> list[Frame]:
    """The frames of one list; all of their files are there."""
    inside = folder / "training" if (folder / "training").is_dir() else folder
    labels = next((inside / name for name in LABELS if (inside / name).is_dir()), inside / LABELS[0])
    names = (folder / "ImageSets" / list_name).read_text(encoding="utf-8").split()
    there = {
        part: {entry.name for entry in os.scandir(part)} if part.is_dir() else set()
        for part in (inside / "velodyne", labels, inside / "calib")
    }
    missing = [
        part / file
        for name in names
        for part, file in zip(there, (f"{name}.bin", f"{name}.txt", f"{name}.txt"), strict=True)
        if file not in there[part]
    ]
    if missing:
        raise checks.part_of_a_set(folder, len(missing), 3 * len(names), str(missing[0]), PAGE)
    points, labels, calibration = there
    return [
        Frame(points / f"{name}.bin", labels / f"{name}.txt", calibration / f"{name}.txt", numbers)
        for name in names
    ]


def _to_points(calibration: Path) -> Floats:
    """[4, 4]: from the rectified camera to the axes of the points."""
    rows: dict[str, str] = {}
    for line in calibration.read_text(encoding="utf-8").splitlines():
        name, _, values = line.partition(":")
        rows[name.strip()] = values
    try:
        rectified, moved = np.eye(4), np.eye(4)
        rectified[:3, :3] = np.array(rows["R0_rect"].split(), np.float64).reshape(3, 3)
        name = "Tr_velo_to_cam" if "Tr_velo_to_cam" in rows else "Tr_velo_to_cam_0"
        moved[:3] = np.array(rows[name].split(), np.float64).reshape(3, 4)
        back = np.linalg.inv(rectified @ moved).astype(np.float64)
    except (KeyError, ValueError, np.linalg.LinAlgError) as error:
        raise checks.damaged_data(calibration, str(error)) from error
    return back


def _boxes(labels: Path, to_points: Floats) -> Floats:
    """The vehicles' boxes [M, 7]."""
    boxes: list[list[float]] = []
    try:
        for line in labels.read_text(encoding="utf-8").splitlines():
            kind, *values = line.split()
            if kind not in VEHICLES:
                continue
            height, width, length, *floor, turn = (float(value) for value in values[7:14])
            x, y, z = (to_points @ [*floor, 1.0])[:3]
            front = to_points[:3, :3] @ [np.cos(turn), 0.0, -np.sin(turn)]
            boxes.append([x, y, z + height / 2, length, width, height, np.arctan2(front[1], front[0])])
    except ValueError as error:
        raise checks.damaged_data(labels, str(error)) from error
    return np.array(boxes).reshape(-1, 7)
