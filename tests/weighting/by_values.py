"""A loss weighting in steps of chosen losses, through a MultiLoss."""

from collections.abc import Sequence

import numpy as np
import torch

from manyloss import MultiLoss
from tests.problems import names


class Values:
    """`steps([1.0, None, 2.0])` takes a step with these losses and gives the weights of those present."""

    def __init__(self, method: torch.nn.Module) -> None:
        self.multi = MultiLoss(method)

    def __call__(self, values: Sequence[float | None]) -> np.ndarray:
        point = torch.ones((), dtype=torch.float64, requires_grad=True)
        losses = {
            name: None if value is None else point - point.detach() + float(value)
            for name, value in zip(names(len(values)), values, strict=True)
        }
        return np.array([float(weight) for weight in self.multi.backward(losses).weights.values()])
