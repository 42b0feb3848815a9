"""GradDrop 2020, section 4.4 and 4.5, tables 3, 4 and 6, figure 6: vehicles in point clouds, nine losses.

**Network.** PointPillars; gradients are merged at its last shared features.

**Losses.** Of each anchor that has a box: x, y, z, length, width and height, smooth L1 times 2; heading,
smooth L1 of the sine of its error, times 2; direction, cross-entropy times 0.2. Of every anchor: class,
focal. All are sums over the number of anchors that have a box.

**Training.** Adam from 1.5e-3 with a ramp of 1,000 steps and cosine annealing, batches of 16, gradients
clipped at norm 1.

**Rows.** Table 3: equal, mgda, gradnorm, pcgrad, random-graddrop, graddrop. Tables 4 and 6: gradnorm,
gradnorm-graddrop, mgda, mgda-graddrop. AP and APH, seen from above (2D) and of the boxes (3D); figure 6 is
their curve over the epochs.

**Data.** Waymo's frames as KITTI's files at full scale; elsewhere made point clouds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torchmetrics import Metric

from manyloss.checks import positive
from manyloss.lab import checks
from manyloss.lab.boxes import AveragePrecision, Detections, from_above, suppressed
from manyloss.lab.datasets import default_data_root, lidar, waymo
from manyloss.lab.models import pointpillars
from manyloss.lab.models.pointpillars import Grid, PointPillars
from manyloss.lab.optimizer import ramp
from manyloss.lab.pictures import Pictures
from manyloss.lab.problem import Outputs, Problem, Splits, Targets
from manyloss.lab.recipes import Recipe

BOX = ("x", "y", "z", "length", "width", "height", "heading")
LOSSES = (*BOX, "class", "direction")
OF_BOX, OF_DIRECTION = 2.0, 0.2
LEAST_SCORE, MOST, SUPPRESSED = 0.1, 100, 0.5
#: What a picture shows of them.
SHOWN_SCORE = 0.3
#: Length, width, height of an anchor and the height of its centre above the ground.
ANCHORS = {"lidar": (4.3, 1.8, 1.6, 0.8), "waymo": (4.73, 2.08, 1.77, 0.885)}

Floats = npt.NDArray[np.float64]


class Scenes:
    """Point clouds and, for every anchor, what the heads should say."""

    def __init__(self, count: int, cloud: Callable[[int], lidar.Cloud], anchors: Floats) -> None:
        self.count, self.cloud, self.anchors = count, cloud, anchors

    def __len__(self) -> int:
        return self.count

    def batch(
        self, indices: Tensor, generator: torch.Generator | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Points [M, 4], their scene [M]; of the anchors state [B, A], box [B, A, 7], direction [B, A]."""
        clouds = [self.cloud(index) for index in indices.tolist()]
        lengths = torch.tensor([len(cloud.points) for cloud in clouds])
        inputs = {
            "points": torch.from_numpy(np.concatenate([cloud.points for cloud in clouds])),
            "scene": torch.arange(len(clouds)).repeat_interleave(lengths),
            "scenes": torch.tensor(len(clouds)),
        }
        states, said, directions = zip(*(self._of_anchors(cloud.boxes) for cloud in clouds), strict=True)
        return inputs, {
            "state": torch.from_numpy(np.stack(states)),
            "box": torch.from_numpy(np.stack(said)).float(),
            "direction": torch.from_numpy(np.stack(directions)).long(),
            "truth": [cloud.boxes.astype(np.float64) for cloud in clouds],
        }

    def _of_anchors(self, boxes: npt.NDArray[np.float32]) -> tuple[Any, Floats, Any]:
        known = boxes.astype(np.float64)
        state, nearest = pointpillars.assigned(self.anchors, known)
        of_anchor = known[nearest] if len(known) else self.anchors
        return (
            state,
            pointpillars.encoded(of_anchor, self.anchors),
            pointpillars.is_backwards(of_anchor[:, 6]),
        )


# -- losses -----------------------------------------------------------------------------------------------


def focal(scores: Tensor, state: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The focal loss (Lin et al. 2017) of anchors [B, A], summed; those in between count for nothing."""
    truth = (state == 1).to(scores.dtype)
    right = torch.where(state == 1, scores, -scores)  # log p of the truth is logsigmoid of this
    weight = torch.where(state == 1, alpha, 1 - alpha) * (state >= 0)
    cross_entropy = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    return (weight * torch.sigmoid(-right) ** gamma * cross_entropy).sum()


class Vehicles(Problem):
    """Where are the vehicles, how large are they, and which way do they face?

    Args:
        data: "lidar", made point clouds, or "waymo".
        data_root: the folder that has waymo.
        reach: half the side of the square that is looked at, in metres.
        side: of a pillar, in metres.
        channels: of PointPillars, 64 in the original.
        train: how many clouds are made to train on.
        test: how many to test on, and to choose the epoch on.
        overlap: what a detection needs to be right.
        batch_size: clouds per step.
        ramp: steps in which the learning rate grows.

    """

    name = "graddrop-pointpillars"
    epochs = 20
    evaluation_batch_size = 8
    clip_gradients = 1.0
    shown = 3
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(LOSSES, F.smooth_l1_loss)

    def __init__(
        self,
        data: str = "lidar",
        data_root: str | None = None,
        reach: float = 16.0,
        side: float = 0.5,
        channels: int = 16,
        train: int = 300,
        test: int = 60,
        overlap: float = 0.5,
        batch_size: int = 4,
        ramp: int = 50,
    ) -> None:
        if data not in ANCHORS:
            raise checks.unknown_source(self.name, data, ANCHORS)
        positive("reach", reach)
        positive("side", side)
        pillars = round(2 * reach / side)
        if pillars % 8 or abs(pillars * side - 2 * reach) > 1e-6:
            raise checks.LabError(
                f"{2 * reach:g} m are no multiple of 8 pillars of {side:g} m. Choose --option reach=16 "
                "--option side=0.5."
            )
        self.data, self.data_root, self.reach = data, data_root, reach
        self.channels, self.train, self.test, self.overlap = channels, train, test, overlap
        self.batch_size, self.ramp = batch_size, ramp
        self.grid = Grid(-reach, -reach, side, pillars, pillars, ANCHORS[data])
        self.anchors = self.grid.anchors()
        self.metrics: Mapping[str, Callable[[], Metric]] = {
            f"vehicles/{dimensions}D {'APH' if heading else 'AP'}": partial(
                AveragePrecision, dimensions, heading, overlap
            )
            for dimensions in (2, 3)
            for heading in (False, True)
        }

    def datasets(self, seed: int) -> Splits:
        """Other clouds for every seed; of Waymo's training frames a twentieth is held out, by the seed."""
        if self.data == "waymo":
            frames = waymo.load(default_data_root(self.data_root))
            order = np.random.default_rng(seed).permutation(len(frames.train))
            held_out = max(1, len(order) // 20)
            train = [frames.train[i] for i in order[held_out:]]
            validation = [frames.train[i] for i in order[:held_out]]
            return Splits(*(self._frames(part) for part in (train, validation, frames.test)))
        counts = (self.train, self.test, self.test)
        starts = (0, self.train, self.train + self.test)
        return Splits(*(self._made(seed, first, count) for first, count in zip(starts, counts, strict=True)))

    def _made(self, seed: int, first: int, count: int) -> Scenes:
        clouds = [self._seen(lidar.scan(seed, first + i, reach=self.reach)) for i in range(count)]
        return Scenes(count, clouds.__getitem__, self.anchors)

    def _frames(self, frames: Sequence[waymo.Frame]) -> Scenes:
        return Scenes(len(frames), lambda index: self._seen(frames[index].read()), self.anchors)

    def _seen(self, cloud: lidar.Cloud) -> lidar.Cloud:
        """The points and boxes within reach."""
        points, boxes = (
            part[(np.abs(part[:, :2]) < self.reach).all(1)] for part in (cloud.points, cloud.boxes)
        )
        return lidar.Cloud(points, boxes)

    def has_papers_data(self) -> bool:
        """Waymo, in the original's network and batches."""
        return self.data == "waymo" and (self.channels, self.batch_size, self.overlap) == (64, 16, 0.7)

    def model(self) -> nn.Module:
        """PointPillars."""
        return PointPillars(self.grid, self.channels)

    def shared_params(self, model: nn.Module) -> None:
        """All methods work at the features, as in the paper."""
        return

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam with a ramp."""
        optimizer = torch.optim.Adam(parameters, lr=1.5e-3)
        ramp(optimizer, self.ramp)
        return optimizer

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Cosine annealing."""
        return CosineAnnealingLR(optimizer, self.epochs)

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """Nine losses; where no anchor has a box, only that of the class is there."""
        has_box = targets["state"] == 1
        count = has_box.sum()
        losses: dict[str, Tensor | None] = dict.fromkeys(LOSSES)
        losses["class"] = focal(outputs["class"], targets["state"]) / count.clamp(min=1)
        if not bool(count):
            return losses
        error = outputs["box"][has_box] - targets["box"][has_box]  # [anchors with a box, 7]
        error = torch.cat([error[:, :6], error[:, 6:].sin()], 1)
        per_number = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=1 / 9).sum(0)
        losses |= dict(zip(BOX, OF_BOX * per_number / count, strict=True))
        direction = F.cross_entropy(outputs["direction"][has_box], targets["direction"][has_box])
        losses["direction"] = OF_DIRECTION * direction
        return losses

    def detected(self, outputs: Outputs, scene: int) -> Detections:
        """The vehicles of one scene of a batch, best first."""
        scores = outputs["class"][scene].detach().sigmoid().double().cpu().numpy()
        best = np.argsort(-scores, kind="stable")[:MOST]
        best = best[scores[best] > LEAST_SCORE]
        said = outputs["box"][scene].detach().double().cpu().numpy()[best]
        backwards = outputs["direction"][scene].argmax(-1).cpu().numpy()[best] == 1
        boxes = pointpillars.decoded(said, self.anchors[best], backwards)
        stay = suppressed(boxes, scores[best], SUPPRESSED)
        return Detections(boxes[stay], scores[best][stay])

    def update_metrics(self, metrics: Mapping[str, Metric], outputs: Outputs, targets: Targets) -> None:
        """Scene by scene."""
        for scene, truth in enumerate(targets["truth"]):
            found = self.detected(outputs, scene)
            for metric in metrics.values():
                metric.update(found, truth)

    def pictures(self, inputs: Any, outputs: Outputs, targets: Targets) -> Pictures:
        """The clouds from above, with the vehicles that are there, and with those that are found."""
        scenes = range(len(targets["truth"]))
        found = [self.detected(outputs, scene) for scene in scenes]
        points = [inputs["points"][inputs["scene"] == scene].cpu().numpy() for scene in scenes]

        def drawn(boxes: Sequence[Floats]) -> Tensor:
            views = (from_above(cloud, each, self.reach) for cloud, each in zip(points, boxes, strict=True))
            return torch.from_numpy(np.stack([*views]))

        return Pictures(
            inputs=drawn([np.zeros((0, 7))] * len(scenes)),
            truth={"vehicles": drawn(targets["truth"])},
            outputs={"vehicles": drawn([each.boxes[each.scores > SHOWN_SCORE] for each in found])},
        )


class Synergy(Vehicles):
    """The same, for the combinations with GradDrop."""

    name = "graddrop-synergy"
    baseline = "gradnorm"


DEPARTURES = (
    "Left open by the paper: GradNorm's alpha is 1.5.",
    "Made point clouds but at full scale, where Waymo's frames must be there in KITTI's layout.",
    "Every point of a pillar is used, not 100 at most; boxes are suppressed by their turned rectangles at an "
    "overlap of 0.5, the original's by upright ones.",
    "Detections are right from an overlap of 0.7, Waymo's, at full scale, and of 0.5 in made clouds.",
    "The epoch is chosen on held-out clouds: the paper takes the last.",
    "Pillars of 0.32 m on 153.6 m at full scale; the paper names no range for Waymo.",
    "Small is 300 clouds of 32 rings on 32 m, pillars of 0.5 m, a quarter of the channels, batches of 4.",
)
SCALES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "epochs": 1,
        "seeds": 1,
        "reach": 8.0,
        "side": 1.0,
        "channels": 2,
        "train": 4,
        "test": 2,
        "batch_size": 2,
    },
    "small": {"epochs": 16, "seeds": 3},
    "full": {
        "epochs": 130,
        "seeds": 3,
        "data": "waymo",
        "reach": 76.8,
        "side": 0.32,
        "channels": 64,
        "overlap": 0.7,
        "batch_size": 16,
        "ramp": 1000,
    },
}

recipes = (
    Recipe(
        name="graddrop-pointpillars",
        summary="Vehicles in point clouds, nine losses of one task: GradDrop against its paper's baselines.",
        problem=Vehicles,
        arms=("equal", "mgda", "gradnorm", "pcgrad", "random-graddrop", "graddrop"),
        seeds=3,
        paper="Just Pick a Sign: GradDrop (2020), section 4.4, table 3, appendix A.6, figure 6",
        departures=DEPARTURES,
        scales=SCALES,
    ),
    Recipe(
        name="graddrop-synergy",
        summary="Vehicles in point clouds: what GradDrop adds to GradNorm and to MGDA.",
        problem=Synergy,
        arms=("gradnorm", "gradnorm-graddrop", "mgda", "mgda-graddrop"),
        seeds=3,
        paper="Just Pick a Sign: GradDrop (2020), section 4.5, table 4, appendix A.6, table 6",
        departures=DEPARTURES,
        scales=SCALES,
    ),
)
