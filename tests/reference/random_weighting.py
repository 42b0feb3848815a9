"""Random loss weighting (Lin et al. 2021): T softmax of T standard normal numbers, drawn anew each step."""

import math
from collections.abc import Sequence

import numpy as np


def weights_from_normals(normals: Sequence[float]) -> list[float]:
    exponentials = [math.exp(number) for number in normals]
    return [len(normals) * value / sum(exponentials) for value in exponentials]


def centred_logits(weights: Sequence[float]) -> np.ndarray:
    """What the weights tell about the normals: their differences from their mean (variance 1 - 1/T each)."""
    logits = np.log(np.asarray(weights, dtype=np.float64))
    return logits - logits.mean()
