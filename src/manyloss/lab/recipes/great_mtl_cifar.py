"""GREAT 2018, table 4 (left): four tasks on noisy grey CIFAR-10 images, with gradient alignment layers.

**Input.** The image in grey, salt and pepper on 4 % of the pixels, then speckle of standard deviation 0.1;
drawn anew in every step, and once and for all for validation and test.

**Tasks.** class: cross-entropy, reported as error; color: the coloured image; edge: Canny edges (sigma 1) of
the clean image; auto: the clean grey image. The last three have a mean squared loss and are reported as RMSE.

**Network.** ResNet-18 without pooling and linear layer is shared; these two are the head of class. Each other
head has three upsamplings by 2 and three residual modules, and here a 1x1 convolution to its channels.

**Rows.** equal; uncertainty, weights normalised to sum 1; gradnorm, alpha 0.6; great: losses divided by
their first value, and the alignment layers. initial-loss is great without the layers, not in the paper.
All that learns follows the main schedule: Adam at 1e-3, times (1 - e/E)^0.9, for 50 epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from skimage.color import rgb2gray
from skimage.feature import canny
from skimage.util import random_noise
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanSquaredError, Metric

from manyloss.adversarial.networks import ResidualModule
from manyloss.lab.arms import BUILT_IN, Arm
from manyloss.lab.datasets import default_data_root, images
from manyloss.lab.metrics import ErrorRate
from manyloss.lab.models.resnet import resnet18_encoder
from manyloss.lab.problem import Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great import ALIGNED, OPEN, ByteImages, PapersTraining, as_bytes, splits_of

SALT_AND_PEPPER = 0.04
SPECKLE = 0.1
SIGMA = 1.0
LEARNING_RATE = 1e-3

Floats = npt.NDArray[np.float64]


def noisy(grey: Floats, seed: int) -> Floats:
    """Salt and pepper, then speckle, on [B, H, W] in [0, 1]."""
    generator = np.random.default_rng(seed)
    peppered = random_noise(grey, mode="s&p", amount=SALT_AND_PEPPER, salt_vs_pepper=0.5, rng=generator)
    speckled: Floats = random_noise(peppered, mode="speckle", var=SPECKLE**2, rng=generator)
    return speckled


class NoisyGrey:
    """A split whose inputs are made when they are needed: [B, 1, H, W], and the four targets."""

    def __init__(self, split: ByteImages) -> None:
        self.images, self.labels = split.inputs, split.targets["class"]
        coloured = self.images.permute(0, 2, 3, 1).numpy()  # bytes [N, H, W, 3]
        self.grey = np.stack([rgb2gray(image) for image in coloured])
        self.edges = torch.from_numpy(np.stack([canny(image, sigma=SIGMA) for image in self.grey]))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]; without a generator always with the same noise."""
        seed = int(indices[0]) if generator is None else int(torch.randint(2**62, (), generator=generator))
        grey = self.grey[indices.numpy()]
        inputs = torch.from_numpy(noisy(grey, seed)).float()
        return inputs[:, None], {
            "class": self.labels[indices],
            "color": self.images[indices] / 255,
            "edge": self.edges[indices].float()[:, None],
            "auto": torch.from_numpy(grey).float()[:, None],
        }


def decoder(width: int, channels: int) -> nn.Sequential:
    """Features [B, 8 width, H, W] -> [B, channels, 8 H, 8 W]."""
    layers: list[nn.Module] = []
    inputs = 8 * width
    for outputs in (4 * width, 2 * width, width):
        layers += [
            nn.Upsample(scale_factor=2),
            ResidualModule(inputs, outputs, 1, convolutions=2, slope=0.0),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(inputs, channels, 1))


class NoisyCifar(PapersTraining):
    """What is it, which colours has it, where are its edges, and how did it look before the noise?

    Args:
        data: where the images come from, see `images.SOURCES`.
        data_root: the folder of the data sets.
        width: channels of the network's first layer, 64 in the paper.
        train: how many training images, stratified; None for all.
        validation: how many of the training images are held out.
        test: how many test images are used, stratified; None for all.
        batch_size: examples per step, 128 in the paper.

    """

    name = "great-mtl-cifar"
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {
        "class": F.cross_entropy,
        "color": F.mse_loss,
        "edge": F.mse_loss,
        "auto": F.mse_loss,
    }
    metrics: Mapping[str, Callable[[], Metric]] = {
        "class/error": partial(ErrorRate, num_classes=images.CLASSES, average="micro"),
        **{f"{task}/RMSE": partial(MeanSquaredError, squared=False) for task in ("color", "edge", "auto")},
    }
    arms: Mapping[str, Arm] = {
        "uncertainty": replace(
            BUILT_IN["uncertainty"],
            summary="Kendall's uncertainties, the weights normalised to sum 1.",
            options={
                "kinds": {"class": "classification"} | dict.fromkeys(("color", "edge", "auto"), "regression"),
                "lr": LEARNING_RATE,
                "normalize": 1.0,
            },
        ),
        "gradnorm": BUILT_IN["gradnorm"].with_defaults(
            "GradNorm with the paper's alpha = 0.6.", alpha=0.6, lr=LEARNING_RATE
        ),
        "great": ALIGNED,
    }

    def __init__(
        self,
        data: str = "cifar10",
        data_root: str | None = None,
        width: int = 64,
        train: int | None = None,
        validation: int = 1000,
        test: int | None = None,
        batch_size: int = 128,
    ) -> None:
        self.data = data
        self.data_root = data_root
        self.width = width
        self.train, self.validation, self.test = train, validation, test
        self.batch_size = batch_size

    def has_papers_data(self) -> bool:
        """CIFAR-10 at its full size, and the paper's width."""
        return self.data == "cifar10" and self.width == 64 and self.train is None

    def datasets(self, seed: int) -> Splits:
        """The same images for every seed."""
        found = images.load(self.data, default_data_root(self.data_root), recipe=self.name)
        splits = splits_of(found, train=self.train, validation=self.validation, test=self.test, augment=None)
        return Splits(
            *(NoisyGrey(as_bytes(split)) for split in (splits.train, splits.validation, splits.test))
        )

    def encoder(self) -> nn.Module:
        """Grey images [B, 1, 32, 32] -> [B, 512, 4, 4]."""
        return resnet18_encoder(width=self.width, channels=1)

    def heads(self) -> Mapping[str, nn.Module]:
        """Pooling and a linear layer; three decoders."""
        classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * self.width, images.CLASSES)
        )
        return {
            "class": classifier,
            "color": decoder(self.width, 3),
            "edge": decoder(self.width, 1),
            "auto": decoder(self.width, 1),
        }

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(parameters, lr=LEARNING_RATE)


recipe = Recipe(
    name="great-mtl-cifar",
    summary="Class, colours, edges and the clean image, all from a noisy grey one.",
    problem=NoisyCifar,
    arms=("equal", "uncertainty", "gradnorm", "great", "initial-loss"),
    seeds=3,
    epochs=50,
    paper="Gradient Adversarial Training of Neural Networks (2018), table 4 left",
    departures=(
        OPEN,
        "A 1x1 convolution ends each decoder; nearest-neighbour upsampling: the paper gives neither.",
        "The text speaks of a dilated ResNet-53, the supplement of ResNet-18, which it is here.",
        "Small scale: an eighth of the width, 5,000 images, 10 epochs, batches of 64.",
    ),
    scales={
        "smoke": {
            "epochs": 1,
            "seeds": 1,
            "data": "digits",
            "width": 2,
            "train": 64,
            "validation": 20,
            "test": 20,
            "batch_size": 16,
        },
        "small": {
            "epochs": 10,
            "seeds": 3,
            "width": 8,
            "train": 5000,
            "validation": 1000,
            "test": 2000,
            "batch_size": 64,
        },
        "full": {"epochs": 50, "seeds": 3},
    },
)
