"""What the experiments on MTFL share (GradNorm 2018, supplement 7.2): the faces, the losses, the errors.

**Losses.** landmarks: half the squared distance of ten coordinates, in pixels, as TCDCN; gender, smile,
glasses and pose (frontal or not): cross-entropy of two scores. 18 outputs in all.

**Errors.** The mean distance of the five landmarks over the distance of the eyes; the share of faces where
it is over 10 %; the share of wrong answers for each attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from manyloss.lab import checks
from manyloss.lab.arms import BUILT_IN, Arm
from manyloss.lab.datasets import default_data_root, mtfl
from manyloss.lab.metrics import ErrorRate, FailureRate, KeypointDistance
from manyloss.lab.models import tcdcn
from manyloss.lab.problem import Problem, Splits, TensorSplit
from manyloss.lab.recipes._kinds import uncertainty

SOURCES = ("mtfl", "made")
#: Held out of the 10,000 training faces at the most, to choose the epoch on; the paper names no such part.
VALIDATION = 1000
TASKS = ("landmarks", *mtfl.ATTRIBUTES)

OPEN = (
    "Pose is frontal (pose 3) or not: the paper has two scores for it, the data five poses.",
    "The crops are a face detector's square boxes; filters are shared over places, as in GradNorm.",
    "Left open by the paper: Adam at 1e-3, batches of 64, the number of epochs, the squared loss (half the "
    "sum over ten coordinates), 1,000 training faces held out for validation, no augmentation.",
    "The landmarks' biases start at the mean face: from 0, losses near 2,000 saturate |tanh| in an epoch, "
    "and every network answers with constants.",
)


def squared_distance(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of [B, 10], mean over the batch."""
    return 0.5 * (output - target).square().sum(1).mean()


def method_arms(alpha: float) -> dict[str, Arm]:
    """The built-in arms as this data needs them: the paper's alpha, and the kinds of the losses."""
    changed = {name: BUILT_IN[name].with_defaults(alpha=alpha) for name in ("gradnorm", "gradnorm-static")}
    return changed | uncertainty(["landmarks"])


class FaceSplit(TensorSplit):
    """Faces kept as bytes [N, 1, S, S]; a batch is on the scale -1..1."""

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]: [B, 1, S, S], landmarks [B, 10] and four classes [B]."""
        images, targets = super().batch(indices, generator)
        return images / 127.5 - 1, targets


class MtflFaces(Problem):
    """Where are the eyes, the nose and the mouth, and who is it?

    Args:
        data: "mtfl", or "made" for drawn faces that need no file.
        data_root: the folder that has mtfl.
        size: the side of the images, 40 or 160.
        unit: of the landmarks in the loss: "pixels" of the image, or the "crop", whose side is 1.
        train: how many training faces are used, or made; None for all.
        width: channels of the network's first layer.

    """

    epochs = 30
    batch_size = 64
    evaluation_batch_size = 500
    channels_last = True
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {
        "landmarks": squared_distance,
        **dict.fromkeys(mtfl.ATTRIBUTES, F.cross_entropy),
    }
    metrics: Mapping[str, Callable[[], Metric]] = {
        "landmarks/keypoint error": KeypointDistance,
        "landmarks/failure rate": FailureRate,
        **{f"{name}/error": partial(ErrorRate, num_classes=2, average="micro") for name in mtfl.ATTRIBUTES},
    }
    arms: Mapping[str, Arm] = method_arms(alpha=0.3)

    def __init__(
        self,
        data: str = "mtfl",
        data_root: str | None = None,
        size: int = 40,
        unit: str = "pixels",
        train: int | None = None,
        width: int = tcdcn.WIDTH,
    ) -> None:
        if data not in SOURCES:
            raise checks.unknown_source(self.name, data, SOURCES)
        if unit not in ("pixels", "crop"):
            raise checks.LabError(
                f"There is no unit {unit!r} for landmarks. Choose --option unit=pixels or crop."
            )
        self.data, self.data_root = data, data_root
        self.size, self.unit, self.train, self.width = size, unit, train, width
        #: The side of the image, in the unit of the landmarks.
        self.side = float(size) if unit == "pixels" else 1.0

    def datasets(self, seed: int) -> Splits:
        """The trial's seed says which training faces are held out; the test faces are always all."""
        if self.data == "made":
            found = mtfl.made(self.train or 512, size=self.size)
        else:
            found = mtfl.load(default_data_root(self.data_root), self.size)
        order = torch.randperm(len(found.train.images), generator=torch.Generator().manual_seed(seed))
        validation = order[: min(VALIDATION, len(order) // 5)]
        rest = order[len(validation) :][: self.train]
        everyone = self._split(found.train)
        return Splits(_part(everyone, rest), _part(everyone, validation), self._split(found.test))

    def _split(self, faces: mtfl.Faces) -> FaceSplit:
        attributes = torch.from_numpy(faces.attributes)
        classes = dict(zip(mtfl.ATTRIBUTES, (attributes - 1).unbind(1), strict=True))
        classes["pose"] = (attributes[:, -1] == mtfl.FRONTAL).long()
        landmarks = self.side * torch.from_numpy(faces.landmarks).flatten(1)
        return FaceSplit(torch.from_numpy(faces.images)[:, None], {"landmarks": landmarks, **classes})

    def has_papers_data(self) -> bool:
        """All faces and the paper's channels; which box each face was cut out by is not published."""
        papers_size = self.train is None and self.width == tcdcn.WIDTH
        return self.data == "mtfl" and self.unit == "pixels" and papers_size

    def encoder(self) -> nn.Module:
        """TCDCN, or the deeper network: all layers up to FC-100, which is W."""
        return tcdcn.encoder(self.size, self.width)

    def heads(self) -> Mapping[str, nn.Module]:
        """FC-18, task by task; the landmarks start at the mean face."""
        heads = {task: nn.Linear(tcdcn.FEATURES, 10 if task == "landmarks" else 2) for task in self.losses}
        with torch.no_grad():
            heads["landmarks"].bias.copy_(self.side * torch.tensor(mtfl.MEAN_SHAPE).flatten())
        return heads


def _part(split: FaceSplit, indices: Tensor) -> FaceSplit:
    return FaceSplit(split.inputs[indices], {task: target[indices] for task, target in split.targets.items()})
