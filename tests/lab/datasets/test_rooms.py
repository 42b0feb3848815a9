"""Made rooms: the same for a seed and index, and depth, normals, classes and keypoints tell of one scene."""

import numpy as np
import pytest

from manyloss.lab.datasets import rooms
from manyloss.lab.datasets.rooms import CLASSES, KEYPOINTS, heat_maps, render


@pytest.fixture(scope="module")
def some():
    return [render(0, index, 60, 80) for index in range(12)]


def test_a_room_is_a_function_of_seed_and_index(some):
    again = render(0, 3, 60, 80)
    for one, other in zip(some[3], again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (render(1, 3, 60, 80).image != again.image).any()
    assert (some[4].image != again.image).any()


def test_what_a_room_holds(some):
    for room in some:
        assert room.image.shape == (60, 80, 3)
        assert room.image.dtype == room.classes.dtype == np.uint8
        assert room.depth.dtype == room.normals.dtype == np.float32
        assert room.keypoints.shape == (KEYPOINTS, 2)
        assert np.isfinite(room.depth).all()
        assert 0 < room.depth.min() < room.depth.max() < 9
        np.testing.assert_allclose(np.linalg.norm(room.normals, axis=2), 1, atol=1e-4)
    seen = np.bincount(np.concatenate([room.classes.ravel() for room in some]), minlength=len(CLASSES))
    assert (seen > 0).all()


def test_depth_and_normals_are_of_the_same_surfaces(monkeypatch):
    cameras = []
    drawn = rooms._Camera.drawn
    monkeypatch.setattr(rooms._Camera, "drawn", lambda *given: cameras.append(drawn(*given)) or cameras[-1])
    for index in range(4):
        room = render(2, index, 60, 80)
        x, y = np.meshgrid(2 * (np.arange(80) + 0.5) / 80 - 1, (2 * (np.arange(60) + 0.5) - 60) / 80)
        tangent = cameras[-1].tangent
        points = room.depth[:, :, None] * np.stack([tangent * x, tangent * y, np.ones_like(x)], 2)
        assert ((points * room.normals).sum(2) < 0).all()  # surfaces face the camera
        for axis in (0, 1):
            step = np.diff(points, axis=axis)
            here = room.normals[:-1] if axis == 0 else room.normals[:, :-1]
            there = room.normals[1:] if axis == 0 else room.normals[:, 1:]
            same = ((here * there).sum(2) > 0.9999) & (np.linalg.norm(step, axis=2) < 0.3)
            assert same.mean() > 0.8
            away = np.abs((step * here).sum(2))[same]
            assert np.quantile(away, 0.95) < 1e-3  # the rest are steps between parallel surfaces


def test_keypoints_take_the_channels_of_the_rooms_type_and_lie_where_walls_meet(some):
    for room in some:
        there = np.flatnonzero(np.isfinite(room.keypoints[:, 0]))
        assert len(set(there // rooms.CORNERS)) <= 1
    assert sum(np.isfinite(room.keypoints[:, 0]).sum() for room in some) > len(some)
    empty = 0
    for room in some:
        for x, y in room.keypoints[np.isfinite(room.keypoints[:, 0])]:
            column, row = int(80 * x), int(60 * y)
            around = room.normals[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].reshape(-1, 3)
            empty += len(np.unique(around.round(2), axis=0)) < 2
    assert empty <= 3  # behind furniture


def test_heat_maps_peak_at_the_keypoints():
    keypoints = np.array([(0.5, 0.25), (np.nan, np.nan)], np.float32)
    maps = heat_maps(keypoints, 40, 80, sigma=2.0)
    assert maps.shape == (2, 40, 80)
    assert not maps[1].any()
    row, column = np.unravel_index(maps[0].argmax(), (40, 80))
    assert (row, column) in {(9, 39), (10, 39), (9, 40), (10, 40)}
    assert maps[0, 10, 44] == pytest.approx(np.exp(-(4.5**2 + 0.5**2) / 8), rel=1e-4)


def test_rays_meet_a_cylinder_at_its_side_and_its_lid():
    half = np.array([0.5, 0.5, 1.0], np.float32)
    starts = np.array([(-3, 0, 0), (0, 0, 4), (-3, 0, 1.5), (0.2, 0, -3)], np.float32)
    rays = np.array([(1, 0, 0), (0, 0, -2), (1, 0, 0), (0, 0, -1)], np.float32)
    distance, normals = rooms._meet_cylinder(starts, rays, half)
    np.testing.assert_allclose(distance, [2.5, 1.5, np.inf, np.inf], rtol=1e-5)
    np.testing.assert_allclose(normals[:2], [(-1, 0, 0), (0, 0, 1)], atol=1e-5)


def test_the_lamp_casts_shadows(monkeypatch):
    lit = render(0, 3, 60, 80).image.astype(int)
    first_hit = rooms._Scene.first_hit
    calls = []

    def without_shadows(scene, starts, rays):
        calls.append(1)
        found = first_hit(scene, starts, rays)
        return found if len(calls) == 1 else found._replace(distance=np.full_like(found.distance, np.inf))

    monkeypatch.setattr(rooms._Scene, "first_hit", without_shadows)
    unshadowed = render(0, 3, 60, 80).image.astype(int)
    darker = (unshadowed - lit).mean(2) > 10
    assert 0.01 < darker.mean() < 0.6
