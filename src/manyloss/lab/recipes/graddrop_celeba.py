"""GradDrop 2020, section 4.2, table 1 and figure 3: 40 attributes of a face, a loss for each.

**Network.** Nine layers; gradients are merged after the last convolution, and the dense layers behind it are
shared too (`manyloss.lab.models.celeba`).

**Training.** Binary cross-entropy per attribute, batches of 8, Adam at 1e-3 times 0.96 every 2,400 steps;
MGDA at a hundredth of that rate.

**Rows of table 1.** equal, clipping, gradient-penalty, mgda, pcgrad, gradnorm, random-graddrop, graddrop;
gradnorm-graddrop of table 4; and graddrop:sum_over_batch=False, which figure 3b compares with.

**Errors.** The share of wrong attributes, and the mean over attributes of F1, both on the test images after
the epoch whose F1 on validation is the highest: F1max is its peak. Figure 3c's share of gradients that
GradDrop passes, or would pass, is part of every record.

**Data.** CelebA at full scale. Elsewhere classes against the rest, or the attributes of MTFL's faces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import MultilabelF1Score, MultilabelHammingDistance

from manyloss.lab import checks
from manyloss.lab.datasets import celeba, cifar10, default_data_root, images, mtfl
from manyloss.lab.models.celeba import AttributeNetwork
from manyloss.lab.problem import Outputs, Problem, Splits, Targets, TensorSplit
from manyloss.lab.recipes import Recipe

POSES = ("left profile", "left", "frontal", "right", "right profile")
#: The losses of each source; those of CelebA are named by its file.
NAMES: Mapping[str, Sequence[str]] = {
    "celeba": (),
    "made": [f"attribute {number}" for number in range(celeba.ATTRIBUTES)],
    "mtfl": ("female", "serious", "no glasses", *POSES),
    "cifar10": cifar10.CLASSES,
    "digits": [str(digit) for digit in range(images.CLASSES)],
}
SIZES = {"celeba": 64, "made": 32, "mtfl": 40, "cifar10": 32, "digits": 32}
F1 = "attributes/max F1"

Bytes = npt.NDArray[np.uint8]


class Photos:
    """Files that are read when they are needed, in [-1, 1], with their attributes."""

    def __init__(self, files: Sequence[Path], targets: Mapping[str, Tensor], size: int) -> None:
        self.files, self.targets, self.size = files, targets, size

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]: [B, 3, S, S], and 0 or 1 per attribute [B]."""
        pictures = np.stack([celeba.photo(self.files[i], self.size) for i in indices.tolist()])
        return _scaled(torch.from_numpy(pictures)), {name: y[indices] for name, y in self.targets.items()}


class Pictures(TensorSplit):
    """Images kept as bytes [N, C, S, S]; a batch is in [-1, 1]."""

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]: [B, C, S, S], and 0 or 1 per attribute [B]."""
        pictures, targets = super().batch(indices, generator)
        return _scaled(pictures), targets


def _scaled(pictures: Tensor) -> Tensor:
    return pictures / 127.5 - 1


def one_against_the_rest(labels: npt.NDArray[np.int64], classes: int) -> Bytes:
    """Labels [N] as attributes [N, classes]."""
    attributes: Bytes = (labels[:, None] == np.arange(classes)).astype(np.uint8)
    return attributes


def attributes_of(faces: mtfl.Faces) -> tuple[Bytes, Bytes]:
    """Three attributes that a face has or not, and one of five poses."""
    binary = (faces.attributes[:, :3] == 2).astype(np.uint8)
    poses = one_against_the_rest(faces.attributes[:, 3] - 1, len(POSES))
    return faces.images[:, None], np.concatenate([binary, poses], axis=1)


class Attributes(Problem):
    """Which attributes does the picture have?

    Args:
        data: "celeba", "mtfl" (eight attributes of grey faces), "cifar10" or "digits" (ten classes against
            the rest), or "made" (40 tiles that are lit or not).
        data_root: the folder that has the data.
        width: channels of the first convolution, 64 in the paper.
        train: how many training images are used, or made; None for all. CelebA is never cut.
        decay: what an epoch multiplies the learning rate with.
        batch_size: examples per step, 8 in the paper.

    """

    name = "graddrop-celeba"
    epochs = 10
    evaluation_batch_size = 500
    channels_last = True

    def __init__(
        self,
        data: str = "cifar10",
        data_root: str | None = None,
        width: int = 8,
        train: int | None = None,
        decay: float = 0.96,
        batch_size: int = 8,
    ) -> None:
        if data not in NAMES:
            raise checks.unknown_source(self.name, data, NAMES)
        self.data, self.data_root, self.width, self.train = data, data_root, width, train
        self.decay, self.batch_size, self.size = decay, batch_size, SIZES[data]
        self.official = celeba.load(default_data_root(data_root)) if data == "celeba" else None
        names = NAMES[data] if self.official is None else self.official.names
        self.losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(
            names, F.binary_cross_entropy_with_logits
        )
        self.metrics: Mapping[str, Callable[[], Metric]] = {
            "attributes/error": partial(MultilabelHammingDistance, num_labels=len(names)),
            F1: partial(MultilabelF1Score, num_labels=len(names), average="macro"),
        }

    def datasets(self, seed: int) -> Splits:
        """CelebA has its own three parts; elsewhere a tenth of the training images is held out, by seed."""
        if self.official is not None:
            parts = (self.official.train, self.official.validation, self.official.test)
            return Splits(*(Photos(part.files, self._targets(part.attributes), self.size) for part in parts))
        train, test = self._pictures()
        order = np.random.default_rng(seed).permutation(len(train[0]))
        held_out = len(order) // 10
        rest = order[held_out:][: self.train]
        return Splits(
            self._split(train[0][rest], train[1][rest]),
            self._split(train[0][order[:held_out]], train[1][order[:held_out]]),
            self._split(*test),
        )

    def _pictures(self) -> tuple[tuple[Bytes, Bytes], tuple[Bytes, Bytes]]:
        """Images and attributes of the training and the test set."""
        root = default_data_root(self.data_root)
        if self.data == "made":
            return celeba.made(self.train or 512), celeba.made(128, seed=1)
        if self.data == "mtfl":
            faces = mtfl.load(root)
            return attributes_of(faces.train), attributes_of(faces.test)
        found = images.load(self.data, root, recipe=self.name)
        classes = len(NAMES[self.data])
        return (
            (found.train_images, one_against_the_rest(found.train_labels, classes)),
            (found.test_images, one_against_the_rest(found.test_labels, classes)),
        )

    def _targets(self, attributes: Bytes) -> dict[str, Tensor]:
        columns = torch.from_numpy(attributes).float().T.contiguous()
        return dict(zip(self.losses, columns, strict=True))

    def _split(self, pictures: Bytes, attributes: Bytes) -> Pictures:
        return Pictures(torch.from_numpy(np.ascontiguousarray(pictures)), self._targets(attributes))

    def has_papers_data(self) -> bool:
        """CelebA, in the paper's network and batches."""
        return self.data == "celeba" and (self.width, self.batch_size) == (64, 8)

    def model(self) -> nn.Module:
        """Nine layers."""
        channels = 1 if self.data == "mtfl" else 3
        return AttributeNetwork(tuple(self.losses), self.size, self.width, channels)

    def shared_params(self, model: nn.Module) -> None:
        """All methods work at the features, as in the paper."""
        return

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Falls by ``decay`` after every epoch."""
        return ExponentialLR(optimizer, self.decay)

    def update_metrics(self, metrics: Mapping[str, Metric], outputs: Outputs, targets: Targets) -> None:
        """All attributes at once: [B, T]."""
        scores = torch.stack([outputs[name] for name in self.losses], 1).sigmoid()
        truth = torch.stack([targets[name] for name in self.losses], 1).long()
        for metric in metrics.values():
            metric.update(scores, truth)

    def score(self, values: Mapping[str, float], first: Mapping[str, float]) -> float:
        """The epoch with the highest F1 is tested."""
        return values[F1]

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam at 1e-3."""
        return torch.optim.Adam(parameters, lr=1e-3)


class FaceAttributes(Attributes):
    """Of MTFL's faces: real attributes, though eight of them."""

    name = "graddrop-celeba-faces"

    def __init__(self, data: str = "mtfl", **options: Any) -> None:
        super().__init__(data=data, **options)


ROWS = (
    "equal",
    "clipping",
    "gradient-penalty",
    "mgda:optimizer.lr_factor=0.01",
    "pcgrad",
    "gradnorm",
    "random-graddrop",
    "graddrop",
    "graddrop:sum_over_batch=False",
    "gradnorm-graddrop",
)

OPEN = (
    "Left open by the paper: gradients are clipped at norm 1.0, the gradient penalty weighs 0.001, "
    "GradNorm's alpha is 1.5."
)

PAPER = "Just Pick a Sign: GradDrop (2020), section 4.2, table 1, figure 3, appendix A.4"
DEPARTURES = (
    OPEN,
    "F1max is read as the peak over training of the mean F1 of the attributes; error and F1 are those of "
    "the test images after the epoch with the peak on validation.",
    "Figure 3c's share of passed gradients is measured on the training batches of about 200 steps.",
)
SMOKE: Mapping[str, Any] = {
    "epochs": 1,
    "seeds": 1,
    "data": "made",
    "train": 64,
    "width": 2,
    "batch_size": 16,
}

recipes = (
    Recipe(
        name="graddrop-celeba",
        summary="Forty attributes of a face, a loss for each (at small CIFAR-10's ten classes, each against "
        "the rest): GradDrop against all baselines of its paper.",
        problem=Attributes,
        arms=ROWS,
        seeds=3,
        paper=PAPER,
        departures=(
            *DEPARTURES,
            "The size of the images is not given: the middle square of CelebA's aligned photos at 64x64.",
            "The learning rate falls once an epoch: by 0.707 = 0.96^(20,346/2,400) on CelebA.",
            "Small is ten classes of CIFAR-10 against the rest, as ten losses: 3,000 training images, an "
            "eighth of the width, batches of 32.",
        ),
        scales={
            "smoke": SMOKE,
            "small": {"epochs": 12, "seeds": 3, "batch_size": 32, "train": 3000},
            "full": {"epochs": 20, "seeds": 3, "data": "celeba", "width": 64, "decay": 0.707},
        },
    ),
    Recipe(
        name="graddrop-celeba-faces",
        summary="Eight attributes of MTFL's faces, a loss for each: the rows of graddrop-celeba.",
        problem=FaceAttributes,
        arms=ROWS,
        seeds=3,
        paper=PAPER,
        departures=(
            *DEPARTURES,
            "MTFL's faces of 40x40, not CelebA: female, serious, no glasses, and five poses, a loss each.",
            "Small is 4,000 faces, an eighth of the width, batches of 32, 20 epochs; full all faces, the "
            "paper's width and batches, 40 epochs.",
        ),
        scales={
            "smoke": SMOKE,
            "small": {"epochs": 20, "seeds": 3, "batch_size": 32, "train": 4000},
            "full": {"epochs": 40, "seeds": 3, "width": 64},
        },
    ),
)
