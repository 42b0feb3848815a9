"""What the experiments of GREAT 2018 on small images share (supplement): schedule, augmentation, splits.

Adam at 1e-3 with the multiplier (1 - e/E)^0.9, e the current of E epochs; random crops from the 4-padded
image; for distillation random flips too. The weights of the last epoch are tested: the methods' strength
grows with the epochs, and the paper chooses no epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from manyloss import MultiLoss
from manyloss.adversarial import GradientAlignment
from manyloss.lab.arms import Arm, ArmContext
from manyloss.lab.datasets.images import stratified
from manyloss.lab.datasets.labelled import TrainAndTest
from manyloss.lab.problem import Problem, Splits, TensorSplit
from manyloss.lab.training import Trainer
from manyloss.weighting import InitialLoss

PADDING = 4
POWER = 0.9

OPEN = (
    "The paper has no validation set and chooses no epoch: here a stratified part of the training images is "
    "held out for the curves, and the last epoch is tested."
)


def aligned(context: ArmContext, lr: float) -> MultiLoss:
    """Every loss over its first value, and alignment layers; both recipes with several tasks have them."""
    return MultiLoss(InitialLoss(), GradientAlignment(lr=lr, seed=context.seed))


ALIGNED = Arm(
    "great",
    "GREAT: alignment layers that a classifier of gradients cannot see through.",
    aligned,
    {"lr": 1e-3},
    search=GradientAlignment.search,
)


def polynomial(optimizer: Optimizer, epochs: int) -> LambdaLR:
    """The learning rate times (1 - e/E)^0.9, stepped per epoch."""
    return LambdaLR(optimizer, lambda epoch: max(1 - epoch / epochs, 0.0) ** POWER)


def random_crop(images: Tensor, generator: torch.Generator, padding: int = PADDING) -> Tensor:
    """A window of the image's size from the image with black around it, one for each of [B, C, H, W]."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    rows = top[:, None] + torch.arange(height)  # [B, H]
    columns = left[:, None] + torch.arange(width)  # [B, W]
    example = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Left and right exchanged for about half of [B, C, H, W]."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


class ByteImages(TensorSplit):
    """Images kept as bytes [N, 3, H, W]; a batch is augmented as bytes and is then on the scale 0..1."""

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, targets = super().__getitem__(index)
        return image / 255, targets

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices``: [B, 3, H, W] in [0, 1] and the labels [B]."""
        images, targets = super().batch(indices, generator)
        return images.contiguous() / 255, targets

    def everything(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """The first ``count`` images in [0, 1], without augmentation, and their labels."""
        images, targets = self.batch(
            torch.arange(len(self) if count is None else min(count, len(self))), None
        )
        return images, targets["class"]


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """The defense's augmentation."""
    return random_crop(images, generator)


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Distillation's augmentation."""
    return random_flip(random_crop(images, generator), generator)


def splits_of(
    images: TrainAndTest,
    *,
    validation: int,
    train: int | None,
    test: int | None,
    augment: Any,
) -> Splits:
    """Stratified and the same for every seed: ``validation`` images of the training set are held out, of the
    rest ``train`` are used (None: all), and ``test`` of the test set.
    """
    generator = np.random.default_rng(0)
    held_out = stratified(images.train_labels, validation, generator)
    rest = np.setdiff1d(np.arange(len(images.train_labels)), held_out)
    chosen = rest if train is None else rest[stratified(images.train_labels[rest], train, generator)]
    tested = np.arange(len(images.test_labels))
    if test is not None:
        tested = stratified(images.test_labels, test, generator)
    training: Mapping[str, Any] = {"augment": augment}
    return Splits(
        _part(images.train_images, images.train_labels, chosen, **training),
        _part(images.train_images, images.train_labels, held_out),
        _part(images.test_images, images.test_labels, tested),
    )


def _part(images: Any, labels: Any, places: Any, **settings: Any) -> ByteImages:
    return ByteImages(
        torch.from_numpy(np.ascontiguousarray(images[places])),
        {"class": torch.from_numpy(labels[places])},
        **settings,
    )


def as_bytes(dataset: Dataset[Any] | Any) -> ByteImages:
    """The split as what it is here."""
    assert isinstance(dataset, ByteImages)
    return dataset


class PapersTraining(Problem):
    """The paper's schedule: the last epoch counts, and what methods learn decays with the training."""

    batch_size = 128
    keep_last = True
    channels_last = True

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """(1 - e/E)^0.9."""
        return polynomial(optimizer, self.epochs)

    def start_epoch(self, trainer: Trainer, epoch: int) -> None:
        """The methods' own schedules, ramps and learning rates, follow."""
        trainer.set_progress(epoch / self.epochs)


class GreatProblem(PapersTraining):
    """One loss, Adam at 1e-3."""

    learning_rate = 1e-3

    def measured_losses(self, model: Any, inputs: Any, targets: Any) -> None:
        """There is one loss: no conflict to record."""
        return
