"""`lidar`: made point clouds of streets with vehicles, a function of (seed, index).

A scanner that spins 1.8 m above flat ground sends a ray per ring and step. Vehicles, each a body with a
cabin nearer to its rear, stand around it, among poles, walls and bushes; what comes first along a ray hides
the rest. Points are noisy, some are lost, and each has an intensity. Boxes, of the vehicles that enough
points lie on, are [x, y, z, length, width, height, heading] with their centre in metres: x ahead, y to the
left, z up from the ground; the heading is the angle from x to the vehicle's front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SENSOR_HEIGHT = 1.8
#: A vehicle with fewer points on it has no box.
LEAST_POINTS = 8
VEHICLES, CLUTTER = (3, 9), (6, 14)
#: Mean length, width and height of a vehicle, and their spread.
MEAN_SIZE, SIZE_SPREAD = (4.3, 1.8, 1.6), (0.5, 0.12, 0.15)
_NOISE, _LOST = 0.02, 0.05
_LOWEST, _HIGHEST = math.radians(-24), math.radians(4)


class Cloud(NamedTuple):
    """``points`` float32 [N, 4]: x, y, z and intensity in 0..1; ``boxes`` float32 [M, 7], see above."""

    points: Floats
    boxes: Floats


@dataclass
class _Solids:
    """Upright boxes: ``centres`` and ``halves`` [K, 3], ``headings`` [K], ``of`` [K]: the vehicle, or -1."""

    centres: Floats
    halves: Floats
    headings: Floats
    of: npt.NDArray[np.int64]


def scan(seed: int, index: int, *, reach: float = 20.0, rings: int = 32, steps: int = 400) -> Cloud:
    """The ``index``-th cloud of ``seed``.

    Args:
        seed: of the set.
        index: which one.
        reach: vehicles stand in a square of this half side, in metres.
        rings: rays above each other, from -24 to 4 degrees.
        steps: rays around.

    """
    generator = np.random.default_rng((seed, index))
    boxes = _vehicles(generator, reach)
    solids = _solids(boxes, generator, reach)
    elevation = np.linspace(_LOWEST, _HIGHEST, rings)
    azimuth = 2 * math.pi * (np.arange(steps) + generator.random()) / steps
    up, around = (grid.ravel() for grid in np.meshgrid(elevation, azimuth, indexing="ij"))
    rays = np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], 1)
    distance, hit = _first(rays, solids)
    kept = (distance < 2 * reach) & (generator.random(len(rays)) >= _LOST)
    noisy = distance + generator.normal(0, _NOISE, len(rays))
    brightness = np.append(generator.uniform(0.1, 0.9, len(solids.of)), 0.2)[hit]  # the ground is hit as -1
    intensity = (brightness + generator.normal(0, 0.05, len(rays))).clip(0, 1)
    points = np.column_stack([rays * noisy[:, None] + [0, 0, SENSOR_HEIGHT], intensity])[kept]
    vehicle = np.append(solids.of, -1)[hit][kept]
    seen = np.bincount(vehicle[vehicle >= 0], minlength=len(boxes)) >= LEAST_POINTS
    return Cloud(points.astype(np.float32), boxes[seen].astype(np.float32))


def _vehicles(generator: np.random.Generator, reach: float) -> Floats:
    """Vehicles that keep apart from each other and from the scanner: [M, 7]."""
    boxes: list[list[float]] = []
    for _ in range(generator.integers(*VEHICLES)):
        for _ in range(20):
            x, y = generator.uniform(-reach, reach, 2)
            length, width, height = np.array(MEAN_SIZE) + np.array(SIZE_SPREAD) * generator.standard_normal(3)
            others = [(box[0], box[1]) for box in boxes] + [(0.0, 0.0)]
            if min(math.hypot(x - a, y - b) for a, b in others) > 1.2 * length:
                along = generator.integers(4) * math.pi / 2 + generator.normal(0, 0.3)  # streets cross
                heading = (along + math.pi) % (2 * math.pi) - math.pi
                boxes.append([x, y, height / 2, length, width, height, heading])
                break
    return np.array(boxes, np.float32).reshape(-1, 7)


def _solids(boxes: Floats, generator: np.random.Generator, reach: float) -> _Solids:
    """Two boxes for each vehicle, and clutter."""
    centres, halves, headings, of = [], [], [], []
    for number, (x, y, _, length, width, height, heading) in enumerate(boxes):
        body, back = 0.55 * height, -0.12 * length
        forward = np.array([math.cos(heading), math.sin(heading)])
        cabin = np.array([x, y]) + back * forward
        centres += [(x, y, body / 2), (*cabin, (height + body) / 2)]
        halves += [(length / 2, width / 2, body / 2), (0.27 * length, 0.45 * width, (height - body) / 2)]
        headings += [heading, heading]
        of += [number, number]
    for _ in range(generator.integers(*CLUTTER)):
        kind = generator.integers(3)
        half = (
            np.array([0.1, 0.1, generator.uniform(1, 2.5)]),  # a pole
            np.array([generator.uniform(1, 4), 0.15, generator.uniform(0.5, 1.5)]),  # a wall
            generator.uniform(0.3, 0.8, 3),  # a bush
        )[kind]
        place = generator.uniform(-1.2 * reach, 1.2 * reach, 2)
        near = np.hypot(*(boxes[:, :2] - place).T) < half[0] + 3.2
        if near.any() or np.hypot(*place) < half[0] + 1.5:
            continue
        centres.append((*place, half[2]))
        halves.append(tuple(half))
        headings.append(generator.uniform(-math.pi, math.pi))
        of.append(-1)
    return _Solids(
        np.array(centres, np.float32).reshape(-1, 3),
        np.array(halves, np.float32).reshape(-1, 3),
        np.array(headings, np.float32),
        np.array(of, np.int64),
    )


def _first(
    rays: npt.NDArray[np.float64], solids: _Solids
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """How far each of the rays [R, 3] gets, inf where nothing is, and what it meets; -1 is the ground."""
    down = rays[:, 2] < 0
    distance = np.where(down, -SENSOR_HEIGHT / np.where(down, rays[:, 2], -1.0), np.inf)
    hit = np.full(len(rays), -1, np.int64)
    start = np.array([0.0, 0.0, SENSOR_HEIGHT])
    for number, (centre, half, heading) in enumerate(
        zip(solids.centres, solids.halves, solids.headings, strict=True)
    ):
        towards = centre - start
        # Only rays within the sphere around the box can meet it.
        near = rays @ towards > math.sqrt(max(float(towards @ towards - half @ half), 0.0)) - 1e-6
        c, s = math.cos(heading), math.sin(heading)
        turned = np.array([(c, -s, 0), (s, c, 0), (0, 0, 1)])
        directions = rays[near] @ turned
        directions = np.where(np.abs(directions) < 1e-9, 1e-9, directions)
        middle, width = (towards @ turned) / directions, np.abs(half / directions)
        enter, leave = (middle - width).max(1), (middle + width).min(1)
        reached = np.where((enter < leave) & (enter > 0), enter, np.inf)
        places = np.flatnonzero(near)[reached < distance[near]]
        distance[places] = reached[reached < distance[near]]
        hit[places] = number
    return distance, hit
