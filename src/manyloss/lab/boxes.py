"""Boxes on the ground: overlaps of turned rectangles, non-maximum suppression, average precision.

A box is [x, y, z, length, width, height, heading], its centre in metres and its heading in radians.
Everything is numpy and takes many boxes at once; a rectangle's overlap is the polygon of the corners that lie
in the other one and of the points where edges cross.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchmetrics import Metric

Floats = npt.NDArray[np.float64]
_EPSILON = 1e-9


def corners(boxes: Floats) -> Floats:
    """The four corners, counter-clockwise, of boxes [N, 7] seen from above: [N, 4, 2]."""
    half = boxes[:, None, 3:5] / 2 * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])  # [N, 4, 2]
    c, s = np.cos(boxes[:, 6, None]), np.sin(boxes[:, 6, None])
    turned = np.stack([c * half[..., 0] - s * half[..., 1], s * half[..., 0] + c * half[..., 1]], -1)
    found: Floats = turned + boxes[:, None, :2]
    return found


def _inside(points: Floats, boxes: Floats) -> npt.NDArray[np.bool_]:
    """Which of the points [P, K, 2] lie in the rectangle of their box [P, 7]: [P, K]."""
    away = points - boxes[:, None, :2]
    c, s = np.cos(boxes[:, 6, None]), np.sin(boxes[:, 6, None])
    along, across = c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]
    inside: npt.NDArray[np.bool_] = (np.abs(along) <= boxes[:, 3, None] / 2 + _EPSILON) & (
        np.abs(across) <= boxes[:, 4, None] / 2 + _EPSILON
    )
    return inside


def shared_area(one: Floats, other: Floats) -> Floats:
    """The area that the rectangles of boxes [P, 7] and [P, 7] share, pair by pair: [P]."""
    a, b = corners(one), corners(other)
    edge_a, edge_b = np.roll(a, -1, 1) - a, np.roll(b, -1, 1) - b
    # a + t edge_a = b + u edge_b for each of 4 x 4 edges
    between = b[:, None] - a[:, :, None]  # [P, 4, 4, 2]
    first, second = edge_a[:, :, None], edge_b[:, None]
    turn = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    parallel = np.abs(turn) < _EPSILON
    safe = np.where(parallel, 1.0, turn)
    t = (between[..., 0] * second[..., 1] - between[..., 1] * second[..., 0]) / safe
    u = (between[..., 0] * first[..., 1] - between[..., 1] * first[..., 0]) / safe
    crossing = ~parallel & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = np.concatenate([a, b, (a[:, :, None] + t[..., None] * first).reshape(len(a), 16, 2)], 1)
    there = np.concatenate([_inside(a, other), _inside(b, one), crossing.reshape(len(a), 16)], 1)
    count = there.sum(1)
    middle = (points * there[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    away = np.where(there[..., None], points - middle[:, None], 0.0)
    # Points that are not there take the place of the first one that is: they add no area.
    angle = np.where(there, np.arctan2(away[..., 1], away[..., 0]), np.inf)
    order = angle.argsort(1)
    ordered = np.take_along_axis(away, order[..., None], 1)
    ordered = np.where(np.sort(angle, 1)[..., None] < np.inf, ordered, ordered[:, :1])
    following = np.roll(ordered, -1, 1)
    area = (ordered[..., 0] * following[..., 1] - ordered[..., 1] * following[..., 0]).sum(1) / 2
    return np.where(count >= 3, np.abs(area), 0.0)


def overlaps(one: Floats, other: Floats, dimensions: int = 2) -> Floats:
    """Intersection over union of every box of [N, 7] with every one of [M, 7]: [N, M].

    Args:
        one: boxes.
        other: boxes.
        dimensions: 2, seen from above, or 3.

    """
    found = np.zeros((len(one), len(other)))
    radius_one, radius_other = (np.hypot(boxes[:, 3], boxes[:, 4]) / 2 for boxes in (one, other))
    away = np.linalg.norm(one[:, None, :2] - other[None, :, :2], axis=2)
    i, j = np.nonzero(away < radius_one[:, None] + radius_other)
    a, b = one[i], other[j]
    shared = shared_area(a, b)
    size_a, size_b = a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]
    if dimensions == 3:
        top = np.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
        bottom = np.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
        shared = shared * (top - bottom).clip(min=0)
        size_a, size_b = size_a * a[:, 5], size_b * b[:, 5]
    found[i, j] = shared / np.maximum(size_a + size_b - shared, _EPSILON)
    return found


def suppressed(boxes: Floats, scores: Floats, most: float) -> npt.NDArray[np.int64]:
    """The boxes that stay, best first, when each removes the worse ones that it overlaps by over ``most``."""
    order = np.argsort(-scores, kind="stable")
    near = overlaps(boxes[order], boxes[order]) > most
    stays = np.ones(len(order), bool)
    for place in range(len(order)):
        if stays[place]:
            stays[place + 1 :] &= ~near[place, place + 1 :]
    return order[stays]


def from_above(
    points: npt.NDArray[np.float32], boxes: Floats, reach: float, pixels: int = 240
) -> npt.NDArray[np.uint8]:
    """A picture [pixels, pixels, 3]: ahead is up; what stands is light, and a line leads to a box's front."""
    scale = pixels / (2 * reach)

    def places(flat: Floats) -> Floats:
        """(column, row) of (x, y), [..., 2]."""
        return (reach - flat[..., ::-1]) * scale

    image = np.full((pixels, pixels, 3), 12, np.uint8)
    column, row = places(points[:, :2].astype(np.float64)).astype(int).T
    there = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    standing = points[:, 2] > 0.15
    for kind, colour in ((~standing, (70, 74, 86)), (standing, (190, 225, 235))):
        image[row[there & kind], column[there & kind]] = colour
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    fronts = boxes[:, :2] + boxes[:, 3:4] / 2 * np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1)
    for outline, middle, front in zip(
        places(corners(boxes)), places(boxes[:, :2]), places(fronts), strict=True
    ):
        pen.polygon([tuple(point) for point in outline], outline=(255, 190, 0))
        pen.line([tuple(middle), tuple(front)], fill=(255, 90, 40))
    return np.asarray(drawn)


class Detections(NamedTuple):
    """What was found in one scene: ``boxes`` [N, 7] and their ``scores`` [N]."""

    boxes: Floats
    scores: Floats


class AveragePrecision(Metric):
    """AP, or APH, of boxes (Sun et al. 2020, Waymo's metrics).

    AP = integral over r of max_{r' >= r} p(r'), p(r) the precision at recall r. For APH every true positive
    counts as its heading's accuracy 1 - d / pi in the precision, d in [0, pi] the error of the heading. A
    detection is a true positive if it overlaps a box that no better one has taken, in the same scene.

    Args:
        dimensions: 2, seen from above, or 3.
        heading: APH in place of AP.
        overlap: intersection over union that a true positive reaches, 0.7 for Waymo's vehicles.

    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, dimensions: int = 3, heading: bool = False, overlap: float = 0.7) -> None:
        super().__init__()
        self.dimensions, self.heading, self.overlap = dimensions, heading, overlap
        self.scores: list[Tensor]
        self.right: list[Tensor]
        self.truths: Tensor
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("right", [], dist_reduce_fx="cat")
        self.add_state("truths", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, found: Detections, truth: Floats) -> None:
        """Add one scene, with its boxes [M, 7]."""
        order = np.argsort(-found.scores, kind="stable")
        boxes = found.boxes[order]
        shared = overlaps(boxes, truth, self.dimensions)
        right = np.zeros(len(boxes))
        free = np.ones(len(truth), bool)
        for place in range(len(boxes)):
            possible = np.where(free, shared[place], 0.0)
            if len(truth) and possible.max() >= self.overlap:
                taken = int(possible.argmax())
                free[taken] = False
                away = abs((boxes[place, 6] - truth[taken, 6] + np.pi) % (2 * np.pi) - np.pi)
                right[place] = 1 - away / np.pi if self.heading else 1.0
                # A box that is found counts as found however it is turned: the smallest number above 0.
                right[place] = max(right[place], 1e-12)
        self.scores.append(torch.from_numpy(found.scores[order]))
        self.right.append(torch.from_numpy(right))
        self.truths += len(truth)

    def compute(self) -> Tensor:
        """Between 0 and 1."""
        if not len(self.scores) or not int(self.truths):
            return torch.zeros((), dtype=torch.float64)
        scores, right = torch.cat([*self.scores]), torch.cat([*self.right])
        right = right[scores.argsort(descending=True, stable=True)]
        positive = (right > 0).double()
        precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
        best = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
        return (best * positive).sum() / self.truths
