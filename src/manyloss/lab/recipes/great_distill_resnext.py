"""GREAT 2018, table 3, second columns: ResNet-18 learns from ResNeXt-29 (8x64d) on CIFAR-10.

100 epochs; soft targets at temperature 6 with alpha 0.95, with all images and with 5 %; the discriminator is
a ResNet-11 of eight modules with LeakyReLU(0.2). `_great_distill` has the rows, `_great` the schedule.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from manyloss.adversarial import networks
from manyloss.lab.models.resnet import resnet18
from manyloss.lab.models.resnext import resnext29
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great import OPEN
from manyloss.lab.recipes._great_distill import (
    PAPER,
    ROWS,
    SMOKE,
    SPARSE,
    TEACHER_IS_OURS,
    SmallImageDistillation,
    distillation_arms,
)


class ResNetFromResNeXt(SmallImageDistillation):
    """ResNet-18 and ResNeXt-29."""

    arms = distillation_arms(alpha=0.95, temperature=6.0)

    def student(self) -> nn.Module:
        """ResNet-18."""
        return resnet18(self.classes, width=self.width)

    def teacher(self) -> nn.Module:
        """ResNeXt-29, 8 x width d."""
        return resnext29(self.classes, width=self.width)

    def discriminator(self) -> nn.Module:
        """ResNet-11 of eight modules."""
        return networks.resnet11(1, modules=8, width=self.width)


recipes = tuple(
    Recipe(
        name=name,
        summary=f"ResNet-18 learns from ResNeXt-29 with {images}: soft targets, or the teacher's gradients?",
        problem=partial(ResNetFromResNeXt, recipe_name=name, share=share),
        arms=ROWS,
        seeds=3,
        epochs=100,
        paper=PAPER,
        departures=(
            TEACHER_IS_OURS,
            OPEN,
            "Small scale: an eighth of the width, 5,000 images, 10 epochs (100 with 5 % of them, 10 of the "
            "teacher), batches of 64.",
        ),
        scales={
            "smoke": SMOKE,
            "small": {
                "epochs": epochs,
                "seeds": 3,
                "width": 8,
                "train": 5000,
                "validation": 1000,
                "teacher_epochs": 10,
                "batch_size": 64,
            },
            "full": {"epochs": 100, "seeds": 5, "teacher_epochs": 100},
        },
    )
    for name, share, images, epochs in (
        ("great-distill-resnext", 1.0, "all images", 10),
        ("great-distill-resnext-5", SPARSE, "5 % of the images", 100),
    )
)
