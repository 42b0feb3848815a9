"""PointPillars: the published size, pillars that stand where points are, boxes said and understood."""

import numpy as np
import pytest
import torch
from torch import nn

from manyloss.lab.models.pointpillars import (
    Grid,
    PillarEncoder,
    PointPillars,
    assigned,
    decoded,
    encoded,
    is_backwards,
)

KITTI = Grid(0.0, -39.68, 0.16, 432, 496)
SMALL = Grid(-4.0, -4.0, 1.0, 8, 8)


def test_the_size_is_the_published_one():
    model = PointPillars(KITTI)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(4.8e6, rel=0.03)
    convolutions = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 4 + 6 + 6
    assert KITTI.anchors().shape == (248 * 216 * 2, 7)


def test_features_and_outputs_belong_to_the_anchors():
    model = PointPillars(SMALL, channels=4)
    points = torch.rand(50, 4) * 8 - 4
    features, outputs = model({"points": points, "scene": torch.arange(50) % 2, "scenes": torch.tensor(2)})
    assert features.shape == (2, 24, 4, 4)
    shapes = {name: tuple(output.shape) for name, output in outputs.items()}
    assert shapes == {"box": (2, 32, 7), "class": (2, 32), "direction": (2, 32, 2)}
    anchors = SMALL.anchors()
    np.testing.assert_allclose(anchors[:3, :2], [[-3, -3], [-3, -3], [-1, -3]])
    # the head's score of one place is that of the two anchors there
    one = torch.zeros(1, 24, 4, 4)
    one[0, :, 2, 3] = 1.0
    said = model.heads["class"](one) - model.heads["class"](torch.zeros_like(one))
    places = said.permute(0, 2, 3, 1).reshape(-1).abs() > 0
    np.testing.assert_allclose(anchors[places.numpy()][:, :2], [[3, 1], [3, 1]])


def test_a_pillar_is_the_maximum_over_its_points_and_others_are_empty():
    encoder = PillarEncoder(SMALL, 3).eval()
    points = torch.tensor([[0.2, 0.3, 1.0, 0.5], [0.8, 0.6, 0.0, 0.1], [-3.5, 3.5, 0.0, 1.0], [9.0, 0, 0, 0]])
    image = encoder(points, torch.tensor([0, 0, 1, 1]), 2)
    assert image.shape == (2, 3, 8, 8)
    filled = torch.zeros(2, 8, 8, dtype=torch.bool)
    filled[0, 4, 4] = filled[1, 7, 0] = True
    assert not image.permute(0, 2, 3, 1)[~filled].any()
    mean = points[:2, :3].mean(0)
    rows = torch.cat([points[:2], points[:2, :3] - mean, points[:2, :2] - 0.5], 1)
    expected = torch.relu(encoder.norm(encoder.linear(rows))).amax(0)
    torch.testing.assert_close(image[0, :, 4, 4], expected)
    other = encoder(points.flip(0), torch.tensor([1, 1, 0, 0]), 2)
    torch.testing.assert_close(image, other)


def test_what_is_said_of_a_box_is_understood():
    generator = np.random.default_rng(0)
    anchors = SMALL.anchors()
    boxes = anchors + generator.normal(0, 0.3, anchors.shape)
    boxes[:, 6] = generator.uniform(-np.pi, np.pi, len(boxes))
    backwards = is_backwards(boxes[:, 6])
    np.testing.assert_allclose(decoded(encoded(boxes, anchors), anchors, backwards), boxes, atol=1e-9)
    turned = encoded(boxes, anchors)
    turned[:, 6] += np.pi  # sin cannot tell; the direction can
    np.testing.assert_allclose(decoded(turned, anchors, backwards), boxes, atol=1e-9)
    assert is_backwards(np.array([0.0, np.pi / 2, np.pi, -np.pi / 2])).tolist() == [False, False, True, True]


def box(x, y, heading=0.0):
    return [x, y, 0.8, 4.3, 1.8, 1.6, heading]


def test_anchors_take_the_boxes_they_overlap():
    anchors = np.array([box(0, 0), box(0, 0, np.pi / 2), box(1.5, 0), box(8, 8), box(-9, 0)])
    state, nearest = assigned(anchors, np.array([box(0.1, 0, 0.1), box(8, 6.5)]))
    assert state.tolist() == [1, 0, -1, 1, 0]  # the fourth is the best there is for its box
    assert nearest[[0, 2, 3]].tolist() == [0, 0, 1]
    assert assigned(anchors, np.zeros((0, 7)))[0].tolist() == [0] * 5


@pytest.mark.slow
def test_one_step_at_the_originals_size():
    model = PointPillars(Grid(-38.4, -38.4, 0.32, 240, 240))
    points = torch.rand(20_000, 4) * 76 - 38
    _, outputs = model({"points": points, "scene": torch.arange(20_000) % 2, "scenes": torch.tensor(2)})
    sum(output.square().mean() for output in outputs.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
