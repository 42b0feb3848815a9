"""Normals of planes are exact, and those of a real room are near the ones that came with it."""

import os
from pathlib import Path

import numpy as np
import pytest

from manyloss.lab.datasets import nyuv2
from manyloss.lab.datasets.normals import Camera, normals_of

DATA = Path(os.environ.get("MANYLOSS_DATA", "../shared/data"))
CAMERA = Camera(50.0, 60.0, 31.5, 23.5)


def plane(normal, distance, height=48, width=64):
    """The depth of a plane that is so far from the camera."""
    x = (np.arange(width) - CAMERA.cx) / CAMERA.fx
    y = (np.arange(height)[:, None] - CAMERA.cy) / CAMERA.fy
    return -distance / (normal[0] * x + normal[1] * y + normal[2])


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.6, 0, -0.8), (-0.36, -0.48, -0.8)])
def test_the_normal_of_a_plane_is_exact_up_to_the_edges_and_around_what_is_unknown(normal):
    depth = plane(np.array(normal), 1.5)
    assert (depth > 0).all()
    depth[10:14, 20:30] = 0
    found = normals_of(depth, CAMERA, window=7)
    assert found.dtype == np.float32
    assert (found[depth == 0] == 0).all()
    np.testing.assert_allclose(found[depth > 0], np.broadcast_to(normal, (48 * 64 - 40, 3)), atol=1e-5)


def test_too_few_known_pixels_fit_no_plane():
    depth = np.zeros((20, 20))
    assert (normals_of(depth, CAMERA, window=7) == 0).all()
    depth[10] = 2.0  # a line
    depth[3:5, 3:5] = 2.0  # a spot
    assert (normals_of(depth, CAMERA, window=7) == 0).all()


@pytest.mark.skipif(not (DATA / "nyuv2_one").exists(), reason="NYUv2's samples are not here")
def test_a_real_rooms_normals_are_near_those_that_came_with_it():
    scene = nyuv2.pictures(DATA / "nyuv2_one")["000433"]
    found = normals_of(scene.depth, nyuv2.CAMERA)
    given = scene.normals[:, :, [0, 2, 1]] * (1, -1, 1)  # these have y away from the camera and z up
    lengths = np.linalg.norm(given, axis=2)
    both = (lengths > 0.5) & (np.linalg.norm(found, axis=2) > 0)
    assert both.mean() > 0.5
    cosines = (found * given).sum(2)[both] / lengths[both]
    assert np.degrees(np.arccos(np.median(cosines))) < 6
    assert cosines.mean() > 0.93
