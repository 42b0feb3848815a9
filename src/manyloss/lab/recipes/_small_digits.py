"""What the checks of GREAT's mechanisms share: scikit-learn's digits at 8x8 and perceptrons for them.

Small enough for many steps and many seeds in minutes; nothing of it is the paper's network or data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from manyloss.lab.datasets.images import stratified
from manyloss.lab.datasets.labelled import TrainAndTest

CLASSES, SIDE, TESTED = 10, 8, 497
#: The activation of whatever reads gradients.
LEAKY = partial(nn.LeakyReLU, 0.2)


def perceptron(
    activation: Callable[[], nn.Module] = nn.ReLU, outputs: int = CLASSES, hidden: int = 128
) -> nn.Module:
    """Two hidden layers: [B, 1, 8, 8] -> [B, outputs]."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, hidden),
        activation(),
        nn.Linear(hidden, hidden),
        activation(),
        nn.Linear(hidden, outputs),
    )


def small_digits() -> TrainAndTest:
    """1,300 digits to train and validate, 497 to test, as bytes [N, 1, 8, 8]."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
    tested = stratified(labels, TESTED, np.random.default_rng(0))
    rest = np.setdiff1d(np.arange(len(labels)), tested)
    return TrainAndTest(images[rest], labels[rest], images[tested], labels[tested])
