"""FairGrad (Ban and Ji 2024, "Fair resource allocation in multi-task learning", eq. 4 and Algorithm 1)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.quadratic import Array, cosines_and_lengths
from manyloss.weighting._base import GradientWeighting

RIDGE = 1e-8
"""Added to the cosines' diagonal: it bounds weights where gradients cancel, and no direction is left."""


class FairGrad(GradientWeighting):
    """The step whose decreases of the losses are alpha-fair to each other.

    maximise sum_i <g_i, d>^(1 - alpha) / (1 - alpha) over a ball; d = sum w_i g_i with G w = w^(-1/alpha)
    elementwise, w > 0. alpha = 1 is Nash-MTL, a large alpha looks after the smallest decrease only, a small
    one after the sum. It is the one minimum of a convex function and solved exactly, by Newton's method.
    Scale as published, which is that of no sum: scaling all gradients by c scales d by c^((1 - alpha) /
    (1 + alpha)). Use ``rescale`` to compare. A zero gradient gets no weight. Heads see the plain losses.

    Args:
        alpha: kind of fairness, above 0.

    """

    name = "fairgrad"
    scale = "free"
    search: ClassVar = {"alpha": (0.5, 1.0, 2.0, 5.0)}

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        checks.positive("alpha", alpha)
        self.alpha = alpha

    def forward(self, gradients: LossGradients) -> Tensor:
        """The weights w with G w = w^(-1/alpha). [T]"""
        return torch.from_numpy(fair_weights(gradients.gramian.numpy(), self.alpha))


def fair_weights(gramian: Array, alpha: float) -> Array:
    """Solve G w = w^(-1/alpha), w > 0; rows of zeros get 0. [T]

    With w_i = u_i / ||g_i||, C the cosines and p = 1/alpha it reads C u = b u^-p, b_i = ||g_i||^(p - 1):
    there the slope of u^T C u / 2 - sum b_i u_i^(1 - p) / (1 - p) is 0. Lengths are relative to a middle one.
    """
    C, lengths = cosines_and_lengths(gramian)
    alive = lengths > 0.0
    weights = np.zeros(len(C))
    if not alive.any():
        return weights
    C, lengths = C[np.ix_(alive, alive)], lengths[alive]
    C = C + RIDGE * np.eye(len(C))
    p = 1.0 / alpha
    middle = float(np.exp(np.log(lengths).mean()))
    b: Array = (lengths / middle) ** (p - 1.0)
    u: Array = b ** (1.0 / (1.0 + p))  # what orthogonal gradients would get
    for _ in range(200):
        pull = b * u**-p
        slope = C @ u - pull
        if np.abs(slope / pull).max() <= 1e-13:
            break
        step = np.linalg.solve(C + np.diag(p * pull / u), -slope)
        reach = 1.0
        shrinks = step < 0.0
        if shrinks.any():
            reach = min(1.0, 0.9 * float((-u[shrinks] / step[shrinks]).min()))
        decrease = float(slope @ step)
        if -decrease <= 1e-30 * float(u @ pull):
            break
        while reach > 1e-12 and _rise(C, b, u, p, reach * step) > 1e-4 * reach * decrease:
            reach *= 0.5
        u = u + reach * step
    weights[alive] = u / (lengths / middle) * middle ** (-2.0 / (1.0 + p))
    return weights


def _rise(C: Array, b: Array, u: Array, p: float, step: NDArray[Any]) -> float:
    """How much the convex function rises along a step."""
    ratio = np.log1p(step / u)  # of new to old u
    terms = ratio if p == 1.0 else u ** (1.0 - p) * np.expm1((1.0 - p) * ratio) / (1.0 - p)
    return float(step @ C @ u + 0.5 * step @ C @ step - b @ terms)
