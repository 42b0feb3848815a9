"""`rooms`: furnished rooms, ray-cast in numpy: a made set for dense tasks, a function of (seed, index).

A room is a box with textured walls, pictures, windows and screens on them, and furniture made of boxes and
upright cylinders on its floor. A camera inside sees it lit by one lamp, with shadows and noise. Every pixel
has a colour, a depth, a surface normal and one of 13 classes, those of NYUv2.

The layout's keypoints stand for RoomNet's (Lee et al. 2017), where a room's type says which of 48 channels
its corners take: here the type is the direction that the camera looks in, one of six, and each type has a
channel for each of the room's eight corners. Furniture before a corner does not hide it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: NYUv2's 13 classes, in their usual order.
CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
)
TYPES, CORNERS = 6, 8
KEYPOINTS = TYPES * CORNERS

Floats = npt.NDArray[np.float32]

#: The mean colour of each class, RGB in 0..1; every thing is painted in a colour near it.
COLOURS = np.array(
    [
        (0.45, 0.5, 0.75),
        (0.7, 0.3, 0.2),
        (0.92, 0.92, 0.9),
        (0.55, 0.35, 0.2),
        (0.6, 0.48, 0.35),
        (0.5, 0.38, 0.28),
        (0.3, 0.6, 0.4),
        (0.55, 0.5, 0.3),
        (0.5, 0.3, 0.4),
        (0.65, 0.5, 0.35),
        (0.08, 0.08, 0.1),
        (0.8, 0.78, 0.7),
        (0.8, 0.9, 1.0),
    ],
    np.float32,
)
_COLOUR_SPREAD = 0.12
_NOISE = 0.02
_AMBIENT = 0.35
_EPSILON = 1e-3


class Room(NamedTuple):
    """What the camera sees.

    ``image`` uint8 [H, W, 3]; ``depth`` float32 [H, W] along the camera's axis, in metres; ``normals``
    float32 [H, W, 3], unit vectors as (right, down, away) of the camera; ``classes`` uint8 [H, W];
    ``keypoints`` float32 [48, 2], (x, y) in units of width and height, NaN where there is none.
    """

    image: npt.NDArray[np.uint8]
    depth: Floats
    normals: Floats
    classes: npt.NDArray[np.uint8]
    keypoints: Floats


@np.errstate(all="ignore")  # a product of float32 may find flags that another library's kernels left
def render(seed: int, index: int, height: int = 120, width: int = 160) -> Room:
    """The room of this seed and index, as its camera sees it."""
    generator = np.random.default_rng([seed, index])
    scene = _Scene.drawn(generator)
    camera = _Camera.drawn(scene, generator)
    rays = camera.rays(height, width)  # [P, 3]
    seen = scene.first_hit(np.broadcast_to(camera.place, rays.shape), rays)
    points = camera.place + seen.distance[:, None] * rays
    classes, colours = scene.painted(points, seen)

    to_lamp = scene.lamp - points
    shadow_starts = points + _EPSILON * 10 * seen.normals
    in_shadow = scene.first_hit(shadow_starts, scene.lamp - shadow_starts).distance < 1 - _EPSILON
    lamp_distance = np.linalg.norm(to_lamp, axis=1)
    facing = (seen.normals * to_lamp).sum(1).clip(0) / lamp_distance
    light = _AMBIENT + 1.3 * facing * ~in_shadow / (1 + 0.1 * lamp_distance**2)
    light[classes == CLASSES.index("window")] = 1.0
    image = colours * light[:, None] + generator.normal(0, _NOISE, colours.shape)

    return Room(
        (255 * image.clip(0, 1)).astype(np.uint8).reshape(height, width, 3),
        seen.distance.reshape(height, width).astype(np.float32),
        (seen.normals @ camera.axes.T).reshape(height, width, 3).astype(np.float32),
        classes.reshape(height, width).astype(np.uint8),
        camera.keypoints(scene, height / width),
    )


def heat_maps(keypoints: Floats, height: int, width: int, sigma: float = 2.0) -> Floats:
    """A Gaussian of ``sigma`` pixels around each keypoint [K, 2], nothing for NaN: [K, height, width]."""
    x = np.arange(width) + 0.5 - width * keypoints[:, :1]  # [K, W]
    y = np.arange(height) + 0.5 - height * keypoints[:, 1:]  # [K, H]
    along_x, along_y = (np.exp(-(away**2) / (2 * sigma**2)) for away in (x, y))
    maps: Floats = np.nan_to_num(along_y[:, :, None] * along_x[:, None, :]).astype(np.float32)
    return maps


# -- the scene --------------------------------------------------------------------------------------------


class _Hits(NamedTuple):
    """The first thing on each of P rays: how far (in lengths of the ray), its normal, and which it is."""

    distance: Floats  # [P]
    normals: Floats  # [P, 3]
    thing: npt.NDArray[np.int64]  # [P], -1 for the room itself


@dataclass
class _Scene:
    """A room from 0 to ``size``, its things, and what hangs on its walls.

    ``centres`` and ``halves`` [K, 3] of things, ``turns`` [K] around the vertical; a ``round`` thing is a
    cylinder of radius halves[:, 0].
    """

    size: Floats
    lamp: Floats
    centres: Floats
    halves: Floats
    turns: Floats
    round: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.int64]
    colours: Floats  # [K, 3]
    surfaces: Floats  # [3, 3] of ceiling, floor, walls
    tiles: Floats  # [2], the width of the floor's tiles and of the wallpaper's stripes
    decorations: Sequence[tuple[int, int, Floats, Floats, int, Floats]]

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> _Scene:
        size = generator.uniform([3.2, 3.2, 2.4], [6, 6, 3]).astype(np.float32)
        things: list[tuple[str, Floats, Floats, float, bool]] = []
        taken: list[tuple[Floats, float]] = []
        for _ in range(generator.integers(3, 7)):
            parts = _FURNITURE[generator.integers(len(_FURNITURE))]
            scale = generator.uniform(0.8, 1.2)
            reach = scale * max(float(np.hypot(*(np.abs(part[1][:2]) + part[2][:2]))) for part in parts)
            if 2 * reach >= min(size[0], size[1]):
                continue
            place = generator.uniform(reach, size[:2] - reach).astype(np.float32)
            if any(np.hypot(*(place - other)) < reach + theirs for other, theirs in taken):
                continue
            taken.append((place, reach))
            turn = generator.integers(4) * math.pi / 2 + generator.normal(0, 0.15)
            rotation = _rotation(turn)
            for name, offset, half, is_round in parts:
                moved = scale * (rotation @ np.array(offset))
                centre = np.array([place[0] + moved[0], place[1] + moved[1], moved[2]], np.float32)
                things.append((name, centre, scale * np.array(half, np.float32), turn, is_round))
        classes = np.array([CLASSES.index(thing[0]) for thing in things], np.int64)
        lamp = size * generator.uniform([0.35, 0.35, 0.93], [0.65, 0.65, 0.96])
        return cls(
            size=size,
            lamp=lamp.astype(np.float32),
            centres=np.array([thing[1] for thing in things], np.float32).reshape(-1, 3),
            halves=np.array([thing[2] for thing in things], np.float32).reshape(-1, 3),
            turns=np.array([thing[3] for thing in things], np.float32),
            round=np.array([thing[4] for thing in things], bool),
            classes=classes,
            colours=_near(COLOURS[classes], generator),
            surfaces=_near(COLOURS[[CLASSES.index(n) for n in ("ceiling", "floor", "wall")]], generator),
            tiles=generator.uniform(0.15, 0.6, 2).astype(np.float32),
            decorations=_decorations(size, generator),
        )

    def first_hit(self, starts: Floats, rays: Floats) -> _Hits:
        """The nearest surface from ``starts`` [P, 3] along ``rays`` [P, 3]."""
        rays = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
        walls = (np.where(rays > 0, self.size, 0) - starts) / rays
        axis = walls.argmin(1)
        pixels = np.arange(len(rays))
        distance = walls[pixels, axis]
        normals = np.zeros_like(rays)
        normals[pixels, axis] = -np.sign(rays[pixels, axis])
        thing = np.full(len(rays), -1)
        lengths = np.einsum("ij,ij->i", rays, rays)
        for number, turn in enumerate(self.turns):
            towards = self.centres[number] - starts
            along = np.einsum("ij,ij->i", towards, rays)
            away = np.einsum("ij,ij->i", towards, towards) - (self.halves[number] ** 2).sum()
            near = np.flatnonzero((away < 0) | ((along > 0) & (along**2 > lengths * away)))  # of its sphere
            rotation = _rotation(turn)
            meet = _meet_cylinder if self.round[number] else _meet_box
            reached, normal = meet(-towards[near] @ rotation, rays[near] @ rotation, self.halves[number])
            nearer = reached < distance[near]
            hit = near[nearer]
            distance[hit] = reached[nearer]
            normals[hit] = normal[nearer] @ rotation.T
            thing[hit] = number
        return _Hits(distance, normals, thing)

    def painted(self, points: Floats, seen: _Hits) -> tuple[npt.NDArray[np.int64], Floats]:
        """The class [P] and the colour [P, 3] of points [P, 3] of surfaces, without light."""
        of_room = seen.thing < 0
        ceiling = of_room & (seen.normals[:, 2] < -0.5)
        floor = of_room & (seen.normals[:, 2] > 0.5)
        wall = of_room & ~ceiling & ~floor
        classes = np.full(len(points), CLASSES.index("wall"))
        colours = np.empty_like(points)
        for where, name, colour in zip(
            (ceiling, floor, wall), ("ceiling", "floor", "wall"), self.surfaces, strict=True
        ):
            classes[where], colours[where] = CLASSES.index(name), colour
        tile = np.floor(points[:, :2] / self.tiles[0]).sum(1) % 2
        stripe = np.floor((points[:, 0] + points[:, 1]) / self.tiles[1]) % 2
        colours *= (1 - 0.15 * tile * floor - 0.07 * stripe * wall)[:, None]
        for axis, side, centre, half, kind, colour in self.decorations:
            along = points[:, [1 - axis, 2]] - centre
            on = wall & (np.sign(seen.normals[:, axis]) == (-side if side else 1))
            on &= (np.abs(along) < half).all(1) & (np.abs(seen.normals[:, axis]) > 0.5)
            classes[on] = kind
            waves = 0.8 + 0.2 * np.sin(25 * along.sum(1)) if kind == CLASSES.index("picture") else 1.0
            colours[on] = (colour * np.broadcast_to(waves, len(points))[:, None])[on]
        things = ~of_room
        classes[things] = self.classes[seen.thing[things]]
        colours[things] = self.colours[seen.thing[things]]
        return classes, colours


#: What stands on the floor: parts with class, offset, half sizes (or a cylinder's radius), cylinder or not.
_Part = tuple[str, tuple[float, float, float], tuple[float, float, float], bool]
_FURNITURE: tuple[tuple[_Part, ...], ...] = (
    (("bed", (0, 0, 0.25), (0.7, 1.0, 0.25), False), ("furniture", (0, -1.03, 0.5), (0.7, 0.03, 0.5), False)),
    (
        ("sofa", (0, 0, 0.22), (0.9, 0.42, 0.22), False),
        ("sofa", (0, -0.34, 0.45), (0.9, 0.1, 0.45), False),
        ("sofa", (-0.85, 0, 0.3), (0.1, 0.42, 0.3), False),
        ("sofa", (0.85, 0, 0.3), (0.1, 0.42, 0.3), False),
    ),
    (
        ("table", (0, 0, 0.73), (0.65, 0.4, 0.025), False),
        ("table", (0, 0, 0.35), (0.06, 0.06, 0.35), True),
        ("books", (-0.3, 0.1, 0.8), (0.12, 0.09, 0.05), False),
        ("objects", (0.3, -0.1, 0.85), (0.06, 0.06, 0.1), True),
    ),
    (
        ("chair", (0, 0, 0.44), (0.22, 0.22, 0.03), False),
        ("chair", (0, -0.2, 0.7), (0.22, 0.025, 0.26), False),
        ("chair", (0, 0, 0.2), (0.04, 0.04, 0.2), True),
    ),
    (
        ("furniture", (0, 0, 0.9), (0.45, 0.22, 0.9), False),
        ("books", (0, 0, 1.87), (0.25, 0.12, 0.07), False),
    ),
    (("objects", (0, 0, 0.3), (0.2, 0.2, 0.3), True),),
    (("furniture", (0, 0, 0.3), (0.5, 0.25, 0.3), False), ("tv", (0, 0, 0.9), (0.45, 0.03, 0.28), False)),
)


def _near(colours: Floats, generator: np.random.Generator) -> Floats:
    drawn: Floats = colours + generator.normal(0, _COLOUR_SPREAD, colours.shape).astype(np.float32)
    return drawn.clip(0.05, 1)


def _decorations(
    size: Floats, generator: np.random.Generator
) -> list[tuple[int, int, Floats, Floats, int, Floats]]:
    """Axis and side of the wall, centre and half size on it, class, colour; some walls have none."""
    found = []
    for axis, side in ((0, 0), (0, 1), (1, 0), (1, 1)):
        name = ("picture", "picture", "window", "tv", "")[generator.integers(5)]
        if not name:
            continue
        kind = CLASSES.index(name)
        largest = {"picture": (0.5, 0.35), "window": (0.8, 0.55), "tv": (0.6, 0.35)}[name]
        half = (np.array(largest) * generator.uniform(0.6, 1)).astype(np.float32)
        length = size[1 - axis]
        centre = np.array([generator.uniform(half[0] + 0.1, length - half[0] - 0.1), 0.58 * size[2]])
        colour = _near(COLOURS[kind], generator)
        found.append((axis, side, centre.astype(np.float32), half, kind, colour))
    return found


# -- rays -------------------------------------------------------------------------------------------------


def _rotation(turn: float) -> Floats:
    """Around the vertical; its columns are the turned axes."""
    c, s = math.cos(turn), math.sin(turn)
    return np.array([(c, -s, 0), (s, c, 0), (0, 0, 1)], np.float32)


def _meet_box(starts: Floats, rays: Floats, half: Floats) -> tuple[Floats, Floats]:
    """Where rays enter a box around 0: distances [P], inf for a miss, and normals [P, 3]."""
    rays = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
    middle, reach = -starts / rays, np.abs(half / rays)
    enter, leave = (middle - reach), (middle + reach).min(1)
    axis = enter.argmax(1)
    pixels = np.arange(len(rays))
    first = enter[pixels, axis]
    normals = np.zeros_like(rays)
    normals[pixels, axis] = -np.sign(rays[pixels, axis])
    return np.where((first < leave) & (first > 0), first, np.float32(np.inf)), normals


def _meet_cylinder(starts: Floats, rays: Floats, half: Floats) -> tuple[Floats, Floats]:
    """Where rays enter an upright cylinder around 0, by its side or its lid, as `_meet_box`."""
    radius, tall = half[0], half[2]
    across = (rays[:, :2] ** 2).sum(1).clip(1e-12)
    towards = (starts[:, :2] * rays[:, :2]).sum(1)
    inside = towards**2 - across * ((starts[:, :2] ** 2).sum(1) - radius**2)
    side = np.where(inside > 0, (-towards - np.sqrt(inside.clip(0))) / across, np.inf)
    finite = np.where(np.isfinite(side), side, 0)
    at_side = np.abs(starts[:, 2] + finite * rays[:, 2]) < tall
    side = np.where(at_side & (side > 0), side, np.inf)
    level = np.where(np.abs(rays[:, 2]) < 1e-6, 1e-6, rays[:, 2])
    lid = (np.sign(-level) * tall - starts[:, 2]) / level
    on_lid = ((starts[:, :2] + lid[:, None] * rays[:, :2]) ** 2).sum(1) < radius**2
    lid = np.where(on_lid & (lid > 0), lid, np.inf)
    first = np.minimum(side, lid).astype(np.float32)
    normals = np.zeros_like(rays)
    by_side = side < lid
    outwards = (starts[:, :2] + finite[:, None] * rays[:, :2])[by_side]
    normals[by_side, :2] = outwards / np.linalg.norm(outwards, axis=1, keepdims=True)
    normals[~by_side, 2] = -np.sign(level[~by_side])
    return first, normals


# -- the camera -------------------------------------------------------------------------------------------


@dataclass
class _Camera:
    """``axes`` [3, 3]: its right, down and away in the room; ``tangent`` of half the horizontal view."""

    place: Floats
    axes: Floats
    tangent: float
    type: int

    @classmethod
    def drawn(cls, scene: _Scene, generator: np.random.Generator) -> _Camera:
        """Anywhere but in a thing, at eye level, looking across the room and a little down."""
        for _ in range(100):
            place = scene.size * generator.uniform([0.05, 0.05, 0.5], [0.95, 0.95, 0.65])
            away = np.linalg.norm(scene.centres[:, :2] - place[:2], axis=1)
            if (away > np.hypot(scene.halves[:, 0], scene.halves[:, 1]) + 0.3).all():
                break
        across = scene.size[:2] * generator.uniform(0.3, 0.7, 2) - place[:2]
        yaw = math.atan2(across[1], across[0])
        pitch = generator.uniform(-0.35, -0.05)
        away = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
        right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
        axes = np.stack([right, np.cross(away, right), away])
        sector = int((yaw / (2 * math.pi) % 1) * TYPES) % TYPES
        tangent = math.tan(generator.uniform(0.5, 0.65))
        return cls(place.astype(np.float32), axes.astype(np.float32), tangent, sector)

    def rays(self, height: int, width: int) -> Floats:
        """One ray through the middle of every pixel, 1 long along the camera's axis: [height * width, 3]."""
        x = self.tangent * (2 * (np.arange(width) + 0.5) / width - 1)
        y = self.tangent * (2 * (np.arange(height) + 0.5) - height) / width
        grid = np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)
        rays: Floats = grid.reshape(-1, 3).astype(np.float32) @ self.axes
        return rays

    def keypoints(self, scene: _Scene, aspect: float) -> Floats:
        """The room's corners that lie in the picture, in the channels of the room's type: [48, 2]."""
        corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * scene.size
        right, down, away = ((corners - self.place) @ self.axes.T).T
        places = np.stack([right, down / aspect], 1) / (2 * self.tangent * away[:, None]) + 0.5
        there = (away > 0.1) & (places > 0).all(1) & (places < 1).all(1)
        found = np.full((KEYPOINTS, 2), np.nan, np.float32)
        found[self.type * CORNERS : (self.type + 1) * CORNERS][there] = places[there]
        return found
