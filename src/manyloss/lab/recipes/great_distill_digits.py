"""GREAT 2018, the mechanism of table 3 and of Sobolev training on 8x8 digits, with many seeds.

A check of the mechanism, not of the paper's networks: student and teacher are perceptrons with two hidden
layers, the discriminator is one with LeakyReLU(0.2). The teacher sees 1,200 digits, the student 5 % of them:
sixty, others for every seed, seen 20 times in an epoch of 18 steps, 900 steps in all (the paper's student
takes 950). Soft targets at temperature 20 with alpha 0.99, GREAT with alpha 0.1, as the paper's with 5 %.

**Rows.** baseline, distillation, great, sobolev. Not in the paper: great that does not saturate, with a
discriminator that learns at a tenth of the rate. `_great_distill` has the arms, `_great` the schedule.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from manyloss.lab.datasets.images import stratified
from manyloss.lab.problem import Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great import OPEN, ByteImages, random_crop, splits_of
from manyloss.lab.recipes._great_distill import PAPER, ROWS, SLOWER, DistillationProblem, distillation_arms
from manyloss.lab.recipes._small_digits import CLASSES, LEAKY, perceptron, small_digits

#: How often an epoch goes through the student's few images.
PASSES = 20


class SmallDigitDistillation(DistillationProblem):
    """Sixty digits for the student, 1,200 for its teacher.

    Args:
        share: of the training digits that the student sees.
        validation: how many training digits are held out.
        hidden: of the student's two layers; the teacher has four times as many.
        teacher_epochs: how long the teacher is trained.
        batch_size: examples per step.

    """

    name = "great-distill-digits"
    classes = CLASSES
    arms = distillation_arms(alpha=0.99, temperature=20.0)

    def __init__(
        self,
        share: float = 0.05,
        validation: int = 100,
        hidden: int = 64,
        teacher_epochs: int = 100,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        self.share, self.validation, self.hidden = share, validation, hidden
        self.teacher_epochs, self.batch_size = teacher_epochs, batch_size

    def datasets(self, seed: int) -> Splits:
        """The seed draws the student's digits, class by class; training shifts them by up to a pixel."""
        shifted = partial(random_crop, padding=1)
        splits = splits_of(small_digits(), train=None, validation=self.validation, test=None, augment=shifted)
        if self.share == 1:
            return splits
        everything = splits.train
        assert isinstance(everything, ByteImages)
        labels = everything.targets["class"].numpy()
        few = stratified(labels, round(self.share * len(labels)), np.random.default_rng(seed))
        places = torch.from_numpy(np.tile(few, PASSES))
        train = ByteImages(everything.inputs[places], {"class": everything.targets["class"][places]}, shifted)
        return Splits(train, splits.validation, splits.test)

    def student(self) -> nn.Module:
        """A perceptron."""
        return perceptron(hidden=self.hidden)

    def teacher(self) -> nn.Module:
        """A wider one."""
        return perceptron(hidden=4 * self.hidden)

    def discriminator(self) -> nn.Module:
        """Input gradients -> one logit each."""
        return perceptron(LEAKY, outputs=1)

    def has_papers_data(self) -> bool:
        """Never: the paper has CIFAR-10, CNN-5 and ResNet-18."""
        return False


recipe = Recipe(
    name="great-distill-digits",
    summary="What passes from a teacher to a student of sixty 8x8 digits: soft targets, or gradients?",
    problem=SmallDigitDistillation,
    arms=(*ROWS, "sobolev", SLOWER),
    seeds=20,
    epochs=50,
    paper=PAPER,
    departures=(
        OPEN,
        "A check of the mechanism: 8x8 digits and perceptrons in place of CIFAR-10, CNN-5 and ResNet-18.",
        "Every seed draws other digits for the student, so that the interval is over them, too.",
        "Sobolev training's weight is 1 (a mean over images and pixels); the paper gives none.",
    ),
    gpu_scales=(),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "teacher_epochs": 1, "hidden": 8},
        "small": {"epochs": 50, "seeds": 20},
        "full": {"epochs": 50, "seeds": 100},
    },
)
