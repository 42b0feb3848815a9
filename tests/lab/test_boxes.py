"""Turned rectangles and average precision: cases with known answers, and areas counted by sampling."""

import numpy as np
import pytest

from manyloss.lab.boxes import AveragePrecision, Detections, from_above, overlaps, shared_area, suppressed


def box(x=0.0, y=0.0, z=0.0, length=4.0, width=2.0, height=1.5, heading=0.0):
    return [x, y, z, length, width, height, heading]


@pytest.mark.parametrize(
    ("one", "other", "area"),
    [
        (box(), box(), 8.0),
        (box(), box(heading=np.pi), 8.0),
        (box(), box(heading=np.pi / 2), 4.0),
        (box(), box(x=1.0, y=0.5), 3 * 1.5),
        (box(), box(x=4.0), 0.0),  # they touch
        (box(), box(x=10.0), 0.0),
        (box(length=2.0), box(length=2.0, heading=np.pi / 4), 8 * (np.sqrt(2) - 1)),  # an octagon
        (box(), box(length=1.0, width=0.5, heading=0.3), 0.5),  # inside
    ],
)
def test_areas_with_known_answers(one, other, area):
    found = shared_area(np.array([one, other]), np.array([other, one]))
    np.testing.assert_allclose(found, area, atol=1e-9)


def test_areas_agree_with_sampling():
    generator = np.random.default_rng(0)
    one, other = np.array([box(), box()])[[0] * 20], np.zeros((20, 7))
    other[:, :2] = generator.uniform(-2, 2, (20, 2))
    other[:, 3:6] = generator.uniform(1, 5, (20, 3))
    other[:, 6] = generator.uniform(-4, 4, 20)
    points = generator.uniform([-2, -1], [2, 1], (20_000, 2))  # in the first box, of area 8
    away = points[None] - other[:, None, :2]
    c, s = np.cos(other[:, 6, None]), np.sin(other[:, 6, None])
    inside = (np.abs(c * away[..., 0] + s * away[..., 1]) < other[:, 3, None] / 2) & (
        np.abs(c * away[..., 1] - s * away[..., 0]) < other[:, 4, None] / 2
    )
    np.testing.assert_allclose(shared_area(one, other), 8 * inside.mean(1), atol=0.1)


def test_overlap_in_space_counts_the_height():
    one, other = np.array([box()]), np.array([box(z=0.75), box(z=1.5), box(x=20.0)])
    np.testing.assert_allclose(overlaps(one, other, 2), [[1, 1, 0]], atol=1e-9)
    np.testing.assert_allclose(overlaps(one, other, 3), [[1 / 3, 0, 0]], atol=1e-9)
    assert overlaps(np.zeros((0, 7)), other).shape == (0, 3)


def test_seen_from_above_ahead_is_up_and_left_is_left():
    points = np.array([[5, 0, 1, 0.5], [0, 5, 0, 0.5], [50, 0, 1, 0.5]], np.float32)
    empty = from_above(points, np.zeros((0, 7)), reach=10.0, pixels=40)
    assert sorted(map(tuple, np.argwhere(empty.max(2) > 12).tolist())) == [(10, 20), (20, 10)]
    assert empty[10, 20].sum() > empty[20, 10].sum()  # one stands, one is ground
    boxed = from_above(points, np.array([box(x=5.0, length=6.0, width=2.0)]), reach=10.0, pixels=40)
    rows, columns = np.nonzero((boxed != empty).any(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 16, 18, 22)


def test_the_best_of_what_overlaps_stays():
    boxes = np.array([box(), box(x=0.2), box(heading=np.pi / 2), box(x=8.0)])
    scores = np.array([0.6, 0.9, 0.8, 0.1])
    assert suppressed(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert suppressed(boxes, scores, 0.95).tolist() == [1, 2, 0, 3]
    assert suppressed(boxes[:0], scores[:0], 0.5).tolist() == []


def precision(scenes, **settings):
    metric = AveragePrecision(**{"dimensions": 2, "overlap": 0.5, **settings})
    for boxes, scores, truth in scenes:
        metric.update(
            Detections(np.array(boxes, float).reshape(-1, 7), np.array(scores, float)),
            np.array(truth, float).reshape(-1, 7),
        )
    return float(metric.compute())


def test_average_precision_with_known_answers():
    near, far = box(x=5.0), box(x=15.0)
    assert precision([([near, far], [0.9, 0.8], [near, far])]) == pytest.approx(1)
    assert precision([([near], [0.9], [near, far])]) == pytest.approx(0.5)
    assert precision([([], [], [near, far])]) == 0
    # right, wrong, right: precision 1 up to recall 1/2, then 2/3
    wrong = box(y=9.0)
    scenes = [([near, wrong], [0.9, 0.8], [near]), ([far], [0.7], [far])]
    assert precision(scenes) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # a box that was found already cannot be found again
    assert precision([([near, near], [0.9, 0.8], [near, far])]) == pytest.approx(0.5)
    assert precision([([near], [0.9], [])]) == 0
    # seen from above it is right, in space it floats above the truth
    assert precision([([box(z=3.0)], [0.9], [box()])]) == 1
    assert precision([([box(z=3.0)], [0.9], [box()])], dimensions=3) == 0
    assert precision([([box(x=2.0)], [0.9], [box()])], overlap=0.34) == 0  # one third


@pytest.mark.parametrize(
    ("error", "share"), [(0.0, 1.0), (np.pi, 0.0), (0.1, 1 - 0.1 / np.pi), (2 * np.pi, 1.0)]
)
def test_aph_counts_the_heading(error, share):
    truth = box(length=2.0, heading=3.1)
    found = box(length=2.0, heading=3.1 + error)
    assert precision([([found], [0.9], [truth])]) == pytest.approx(1)
    assert precision([([found], [0.9], [truth])], heading=True) == pytest.approx(share, abs=1e-9)
