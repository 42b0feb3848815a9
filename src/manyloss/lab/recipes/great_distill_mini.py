"""GREAT 2018, table 3, right half: ResNet-18 learns from ResNet-152 on mini-ImageNet, 64x64 and 224x224.

SGD at 0.01 with momentum 0.9 and weight decay 5e-4. The student is trained for 50 epochs at 64x64 and 30 at
224x224, the teacher for 100 and 50; soft targets as for CNN-5. The discriminator is a ResNet-11 of four
modules of two convolutions with LeakyReLU(0.2). The supplement's heading says ResNet-50, its text and the
table ResNet-152, which it is here.

The images are read from folders (`datasets.mini_imagenet`); smoke makes its own, which shows that it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from manyloss.adversarial import networks
from manyloss.lab import checks
from manyloss.lab.datasets import default_data_root, mini_imagenet
from manyloss.lab.datasets.images import stratified
from manyloss.lab.datasets.mini_imagenet import CroppedPictures, Pictures
from manyloss.lab.models.resnet import resnet18, resnet152
from manyloss.lab.problem import Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great import OPEN
from manyloss.lab.recipes._great_distill import (
    PAPER,
    ROWS,
    SPARSE,
    DistillationProblem,
    distillation_arms,
)

#: Every trial of a process trains on the same ones.
made_pictures = lru_cache(maxsize=1)(mini_imagenet.made)

CLASSES = 200
SOURCES = ("folders", "made")


class MiniImageNet(DistillationProblem):
    """200 classes.

    Args:
        recipe_name: whose numbers these are.
        share: of the training images that the student sees, 1 or 0.05.
        image_size: 64 or 224.
        data: "folders", or "made" for images that need no files.
        data_root: the folder that has ``train`` and ``test``.
        width: channels of the networks' first layer, 64 in the paper.
        classes: how many classes are made.
        per_class: how many training images of each class are made, and as many for the test.
        spread: how far made images lie from their class's, see `mini_imagenet.made`.
        validation: how many of the training images are held out.
        teacher_epochs: how long the teacher is trained.
        batch_size: examples per step.

    """

    learning_rate = 0.01
    evaluation_batch_size = 256

    def __init__(
        self,
        recipe_name: str = "",
        share: float = 1.0,
        image_size: int = 64,
        data: str = "folders",
        data_root: str | None = None,
        width: int = 64,
        classes: int = CLASSES,
        per_class: int = 40,
        spread: float = 0.0,
        validation: int = 1000,
        teacher_epochs: int | None = None,
        batch_size: int = 128,
    ) -> None:
        self.classes = classes
        super().__init__()
        if data not in SOURCES:
            raise checks.unknown_source(recipe_name, data, SOURCES)
        self.name = recipe_name
        self.share = share
        self.image_size = image_size
        self.data = data
        self.data_root = data_root
        self.width = width
        self.per_class, self.spread, self.validation = per_class, spread, validation
        self.teacher_epochs = teacher_epochs or (100 if image_size == 64 else 50)
        self.batch_size = batch_size
        self.arms = distillation_arms(alpha=0.99 if share < 1 else 0.1, temperature=20.0)

    def has_papers_data(self) -> bool:
        """Folders of 200 classes, and the paper's width."""
        return self.data == "folders" and self.width == 64

    def _pictures(self) -> Pictures:
        if self.data == "made":
            return made_pictures(self.classes, self.per_class, spread=self.spread)
        found = mini_imagenet.load(default_data_root(self.data_root))
        if len(found.classes) != self.classes:
            raise checks.DataError(
                f"mini-imagenet has {len(found.classes)} class folders, not {self.classes}. Give the folder "
                "of the whole set."
            )
        return found

    def datasets(self, seed: int) -> Splits:
        """The same images for every seed."""
        found = self._pictures()
        generator = np.random.default_rng(0)
        held_out = stratified(found.train_labels, self.validation, generator)
        rest = np.setdiff1d(np.arange(len(found.train_labels)), held_out)
        if self.share < 1:
            count = round(self.share * len(found.train_labels))
            rest = rest[stratified(found.train_labels[rest], count, generator)]

        def part(places: np.ndarray[Any, np.dtype[np.int64]]) -> CroppedPictures:
            pictures = [found.train[place] for place in places]
            return CroppedPictures(pictures, found.train_labels[places], self.image_size)

        test = CroppedPictures(found.test, found.test_labels, self.image_size)
        return Splits(part(rest), part(held_out), test)

    def student(self) -> nn.Module:
        """ResNet-18."""
        return resnet18(self.classes, self.image_size, width=self.width)

    def teacher(self) -> nn.Module:
        """ResNet-152."""
        return resnet152(self.classes, self.image_size, width=self.width)

    def discriminator(self) -> nn.Module:
        """ResNet-11 of four modules; the first layer has stride 2."""
        return networks.resnet11(1, modules=4, width=self.width, stem_stride=2)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """SGD with momentum and weight decay."""
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9, weight_decay=5e-4)


def _scales(image_size: int, share: float) -> Mapping[str, Mapping[str, Any]]:
    made: Mapping[str, Any] = {"data": "made", "batch_size": 16}
    return {
        "smoke": {
            "epochs": 1,
            "seeds": 1,
            "width": 4,
            "classes": 4,
            "per_class": 42,
            "validation": 8,
            "teacher_epochs": 1,
            **made,
        },
        "small": {
            "epochs": 50 if share < 1 else 5,
            "seeds": 10 if image_size == 64 else 3,
            "width": 8,
            "classes": 10,
            "per_class": 100,
            "spread": 0.15,
            "validation": 100,
            "teacher_epochs": 20,
            **made,
        },
        "full": {"epochs": 50 if image_size == 64 else 30, "seeds": 1},
    }


recipes = tuple(
    Recipe(
        name=name,
        summary=f"ResNet-18 learns from ResNet-152 at {size}x{size} with {images}.",
        problem=partial(MiniImageNet, recipe_name=name, share=share, image_size=size),
        arms=ROWS,
        seeds=1,
        epochs=50 if size == 64 else 30,
        paper=PAPER,
        departures=(
            OPEN,
            "Images are scaled by 1 to 1.25 before the crop: the paper gives no range.",
            "The discriminator's first layer has stride 2 at 224x224 too: the paper says so for 64x64 only.",
            "Small is an eighth of the width and 1,000 made images of ten classes, whose colour, width and "
            "direction vary about the class's: 5 epochs (50 with 5 % of them, 20 of the teacher), batches of "
            "16. It was chosen by the student alone and the teacher.",
        ),
        scales=_scales(size, share),
    )
    for name, size, share, images in (
        ("great-distill-mini", 64, 1.0, "all images"),
        ("great-distill-mini-5", 64, SPARSE, "5 % of the images"),
        ("great-distill-mini-224", 224, 1.0, "all images"),
        ("great-distill-mini-224-5", 224, SPARSE, "5 % of the images"),
    )
)
