"""Uncertainty weighting (Kendall et al. 2018): L / (2 s^2) + log s, or L / s^2 + log s for classification.

Learned through autograd on that very objective, in v = log s^2.
"""

from collections.abc import Sequence

import numpy as np
import torch


class UncertaintyOracle:
    def __init__(self, kinds: Sequence[str], lr: float = 0.025, normalize: float | None = None):
        self.kinds, self.normalize = list(kinds), normalize
        self.log_variances = torch.zeros(len(self.kinds), dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.log_variances], lr=lr)

    def step(self, losses: Sequence[float]) -> np.ndarray:
        """The weights of this step (summing to `normalize`, if given); the log-variances learn afterwards."""
        objective = torch.zeros((), dtype=torch.float64)
        weights = []
        for kind, loss, log_variance in zip(self.kinds, losses, self.log_variances, strict=True):
            deviation = torch.exp(0.5 * log_variance)
            weight = 1.0 / (2.0 * deviation**2) if kind == "regression" else 1.0 / deviation**2
            weights.append(float(weight.detach()))
            objective = objective + weight * float(loss) + torch.log(deviation)
        self.optimizer.zero_grad()
        objective.backward()
        self.optimizer.step()
        used = np.array(weights)
        return used if self.normalize is None else used * (self.normalize / used.sum())
