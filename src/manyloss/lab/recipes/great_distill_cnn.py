"""GREAT 2018, table 3, first columns: CNN-5 learns from ResNet-18 on CIFAR-10, with all images and with 5 %.

The supplement sets Sobolev training beside it, which matches gradients directly: 84.98 % with all images and
66.50 % with 5 %, against GREAT's 85.72 and 66.55 %. Claims on it are judged from the same trials.

50 epochs; soft targets at temperature 20 with alpha 0.1 (all images) and 0.99 (5 %); the discriminator is
another CNN-5 with LeakyReLU(0.2). `_great_distill` has the rows, `_great` the schedule and the augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from manyloss.adversarial import networks
from manyloss.lab.models.cnn5 import cnn5
from manyloss.lab.models.resnet import resnet18
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


class CnnFromResNet(SmallImageDistillation):
    """CNN-5 and ResNet-18."""

    def __init__(self, share: float = 1.0, **options: Any) -> None:
        super().__init__(share=share, **options)
        self.arms = distillation_arms(alpha=0.99 if share < 1 else 0.1, temperature=20.0)

    def student(self) -> nn.Module:
        """CNN-5."""
        return cnn5(self.classes)

    def teacher(self) -> nn.Module:
        """ResNet-18."""
        return resnet18(self.classes, width=self.width)

    def discriminator(self) -> nn.Module:
        """CNN-5 with LeakyReLU."""
        return networks.cnn5(1)


DEPARTURES = (
    TEACHER_IS_OURS,
    OPEN,
    "The paper gives no weight of Sobolev training's distance, a mean over images and pixels here. It is 1: "
    "of 1, 10, 100, 1,000 and 10,000 the best on the validation images (two seeds, 500 images, 10 epochs).",
)
ALL, SPARSELY = "all images", "5 % of the images"
#: By the images the student sees, what small scale is.
SMALL: Mapping[str, str] = {
    ALL: "Small is a teacher of a quarter of the width, 10,000 images, 10 epochs (its too), batches of 64.",
    SPARSELY: "Small is a teacher of an eighth of the width with 10 epochs of all images; the student has 25 "
    "epochs of the paper's 2,500 images in batches of 64, 975 steps as in the paper.",
}
FULL: Mapping[str, Any] = {"epochs": 50, "seeds": 5, "teacher_epochs": 100}
SCALES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    ALL: {
        "smoke": SMOKE,
        "small": {
            "epochs": 10,
            "seeds": 3,
            "width": 16,
            "train": 10_000,
            "validation": 1000,
            "teacher_epochs": 10,
            "batch_size": 64,
        },
        "full": FULL,
    },
    SPARSELY: {
        "smoke": SMOKE,
        "small": {"epochs": 25, "seeds": 5, "width": 8, "teacher_epochs": 10, "batch_size": 64},
        "full": FULL,
    },
}

recipes = tuple(
    Recipe(
        name=name,
        summary=f"CNN-5 learns from ResNet-18 with {images}: soft targets, or the teacher's gradients?",
        problem=partial(CnnFromResNet, recipe_name=name, share=share),
        arms=ROWS,
        seeds=3,
        epochs=50,
        paper=PAPER,
        departures=(*DEPARTURES, SMALL[images]),
        scales=SCALES[images],
    )
    for name, share, images in (
        ("great-distill-cnn", 1.0, ALL),
        ("great-distill-cnn-5", SPARSE, SPARSELY),
    )
)
