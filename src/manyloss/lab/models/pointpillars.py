"""PointPillars (Lang et al. 2019): a point cloud as an image of pillars, a 2-D backbone, boxes from anchors.

**Encoder.** A point is (x, y, z, intensity), its distance from the mean of its pillar's points and from the
pillar's middle: nine numbers, one linear layer with BatchNorm and ReLU, and the maximum over the pillar.
**Backbone.** Block(S, L, F) is L convolutions of 3x3 with F channels, the first with stride S:
Block(2, 4, C), Block(2, 6, 2C), Block(2, 6, 4C), each brought to the first one's resolution with 2C channels;
6C channels are the features, where gradients are merged.
**Heads.** For each place and each of two anchors, 0 and 90 degrees: seven numbers for the box, a score, and
two for its direction.

4.8 M parameters with C = 64. Every point is used: the original keeps at most 100 of a pillar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

POINT = 9
#: Convolutions per block, and channels in multiples of the first one's.
BLOCKS = ((4, 1), (6, 2), (6, 4))
#: length, width, height and centre's height of the anchors (KITTI's cars in the original, z from the ground).
ANCHOR = (3.9, 1.6, 1.56, 0.78)
HEADINGS = (0.0, np.pi / 2)
PRIOR = 0.01
#: Overlap from which an anchor has a box, and below which it is background.
MATCHED, BACKGROUND = 0.6, 0.45

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Where pillars stand: ``columns`` x ``rows`` of them, ``side`` metres wide, from (``left``, ``bottom``).

    Columns go along x, rows along y; ``anchor`` is (length, width, height, height of the centre).
    """

    left: float
    bottom: float
    side: float
    columns: int
    rows: int
    anchor: tuple[float, float, float, float] = ANCHOR

    def anchors(self) -> Floats:
        """Boxes [rows / 2 * columns / 2 * 2, 7], in the order of the heads' outputs."""
        x = self.left + self.side * (2 * np.arange(self.columns // 2) + 1)
        y = self.bottom + self.side * (2 * np.arange(self.rows // 2) + 1)
        ys, xs, headings = np.meshgrid(y, x, np.array(HEADINGS), indexing="ij")
        length, width, height, z = self.anchor
        sizes = [np.full(xs.shape, number) for number in (z, length, width, height)]
        return np.stack([xs, ys, *sizes, headings], -1).reshape(-1, 7)


def _block(inputs: int, outputs: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [
            nn.Conv2d(inputs, outputs, 3, 1 if number else 2, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
            nn.ReLU(),
        ]
        inputs = outputs
    return nn.Sequential(*layers)


class PillarEncoder(nn.Module):
    """Points [M, 4] of scenes [M] -> an image of pillars [B, channels, rows, columns]."""

    def __init__(self, grid: Grid, channels: int) -> None:
        super().__init__()
        self.grid, self.channels = grid, channels
        self.linear = nn.Linear(POINT, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)

    def forward(self, points: Tensor, scene: Tensor, scenes: int) -> Tensor:
        """A pillar without a point is 0. Points outside of the grid are left out."""
        grid = self.grid
        corner = points.new_tensor([grid.left, grid.bottom])
        place = ((points[:, :2] - corner) / grid.side).floor().long()  # [M, 2]
        size = torch.tensor([grid.columns, grid.rows], device=points.device)
        inside = ((place >= 0) & (place < size)).all(1)
        points, scene, place = points[inside], scene[inside], place[inside]
        flat = (scene * grid.rows + place[:, 1]) * grid.columns + place[:, 0]
        pillars, of = torch.unique(flat, return_inverse=True)
        count = torch.bincount(of, minlength=len(pillars)).to(points.dtype)[:, None]
        mean = points.new_zeros(len(pillars), 3).index_add(0, of, points[:, :3]) / count
        middle = corner + grid.side * (place + 0.5)
        numbers = torch.cat([points, points[:, :3] - mean[of], points[:, :2] - middle], 1)  # [M, 9]
        lifted = torch.relu(self.norm(self.linear(numbers)))
        index = of[:, None].expand_as(lifted)
        best = lifted.new_zeros(len(pillars), self.channels).scatter_reduce(0, index, lifted, "amax")
        canvas = best.new_zeros(scenes * grid.rows * grid.columns, self.channels).index_put((pillars,), best)
        return canvas.reshape(scenes, grid.rows, grid.columns, self.channels).permute(0, 3, 1, 2)


class PointPillars(nn.Module):
    """``{"points": [M, 4], "scene": [M], "scenes": B}`` -> features [B, 6C, rows / 2, columns / 2], outputs.

    The outputs are ``box`` [B, A, 7], ``class`` [B, A] and ``direction`` [B, A, 2], A the anchors.

    Args:
        grid: its rows and columns are multiples of 8.
        channels: C, 64 in the original.

    """

    def __init__(self, grid: Grid, channels: int = 64) -> None:
        super().__init__()
        self.encoder = PillarEncoder(grid, channels)
        self.blocks, self.ups = nn.ModuleList(), nn.ModuleList()
        inputs = channels
        for number, (count, factor) in enumerate(BLOCKS):
            self.blocks.append(_block(inputs, factor * channels, count))
            inputs = factor * channels
            up = nn.ConvTranspose2d(inputs, 2 * channels, 2**number, 2**number, bias=False)
            norm = nn.BatchNorm2d(2 * channels, eps=1e-3, momentum=0.01)
            self.ups.append(nn.Sequential(up, norm, nn.ReLU()))
        outputs = {"box": 7, "class": 1, "direction": 2}
        features = 2 * len(BLOCKS) * channels
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(features, count * len(HEADINGS), 1) for name, count in outputs.items()}
        )
        bias = self.heads["class"].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias, -float(np.log((1 - PRIOR) / PRIOR)))  # few anchors are vehicles

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The features that gradients are merged at, and what the heads say of every anchor."""
        scenes = int(inputs["scenes"])
        x = self.encoder(inputs["points"], inputs["scene"], scenes)
        levels = []
        for block, up in zip(self.blocks, self.ups, strict=True):
            x = block(x)
            levels.append(up(x))
        features = torch.cat(levels, 1)
        outputs = {}
        for name, head in self.heads.items():
            said = head(features).permute(0, 2, 3, 1)  # [B, H, W, anchors * numbers]
            outputs[name] = said.reshape(scenes, -1, said.shape[-1] // len(HEADINGS)).squeeze(-1)
        return features, outputs


# -- boxes and anchors --------------------------------------------------------------------------------------


def _standing(boxes: Floats) -> Floats:
    """The upright rectangle nearest to each box: its low and high corner [N, 4]."""
    across = np.abs(np.sin(boxes[:, 6])) > np.sqrt(0.5)
    size = np.where(across[:, None], boxes[:, [4, 3]], boxes[:, [3, 4]])
    return np.concatenate([boxes[:, :2] - size / 2, boxes[:, :2] + size / 2], 1)


def assigned(anchors: Floats, boxes: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which anchors have a box: 1, 0 or, in between, -1 [A]; and which box they would have [A].

    The best anchor of a box has it, however small the overlap.
    """
    if not len(boxes):
        return np.zeros(len(anchors), np.int64), np.zeros(len(anchors), np.int64)
    a, b = _standing(anchors)[:, None], _standing(boxes)[None]
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0)
    shared = sides.prod(-1)
    areas = anchors[:, 3] * anchors[:, 4], boxes[:, 3] * boxes[:, 4]
    overlap = shared / (areas[0][:, None] + areas[1] - shared)
    nearest = overlap.argmax(1)
    most = overlap.max(1)
    state = np.where(most >= MATCHED, 1, np.where(most < BACKGROUND, 0, -1))
    best = overlap.argmax(0)
    touched = overlap.max(0) > 0
    state[best[touched]] = 1
    nearest[best[touched]] = np.flatnonzero(touched)
    return state, nearest


def encoded(boxes: Floats, anchors: Floats) -> Floats:
    """What a head has to say of each anchor [N, 7] for its box [N, 7]."""
    diagonal = np.hypot(anchors[:, 3], anchors[:, 4])
    return np.column_stack(
        [
            (boxes[:, :2] - anchors[:, :2]) / diagonal[:, None],
            (boxes[:, 2] - anchors[:, 2]) / anchors[:, 5],
            np.log(boxes[:, 3:6] / anchors[:, 3:6]),
            boxes[:, 6] - anchors[:, 6],
        ]
    )


def decoded(said: Floats, anchors: Floats, backwards: npt.NDArray[np.bool_]) -> Floats:
    """The boxes [N, 7] that the heads speak of; the direction decides between a heading and its opposite."""
    diagonal = np.hypot(anchors[:, 3], anchors[:, 4])
    heading = said[:, 6] + anchors[:, 6]
    heading = np.where(is_backwards(heading) == backwards, heading, heading + np.pi)
    heading = (heading + np.pi) % (2 * np.pi) - np.pi
    return np.column_stack(
        [
            said[:, :2] * diagonal[:, None] + anchors[:, :2],
            said[:, 2] * anchors[:, 5] + anchors[:, 2],
            np.exp(said[:, 3:6].clip(-5, 5)) * anchors[:, 3:6],
            heading,
        ]
    )


def is_backwards(heading: Floats) -> npt.NDArray[np.bool_]:
    """Whether a heading lies in the half turn from 135 to 315 degrees, whose ends few streets have."""
    turned: npt.NDArray[np.bool_] = (heading + np.pi / 4) % (2 * np.pi) >= np.pi
    return turned
