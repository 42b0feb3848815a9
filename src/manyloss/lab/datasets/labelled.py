"""What the loaders of labelled images give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class TrainAndTest(NamedTuple):
    """``images`` uint8 [N, C, H, W], or [N, H, W] in grey, with ``labels`` int64 [N], of both sets."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


class TrainOnly(NamedTuple):
    """``images`` uint8 [N, C, H, W] with ``labels`` int64 [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
