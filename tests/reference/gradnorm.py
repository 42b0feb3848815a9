"""GradNorm (Chen et al. 2018, eq. 1-2, Algorithm 1): L_grad differentiated by autograd, Adam by torch.

`losses` and `norms` are what one step measures: L_i(t) and n_i = ||grad_W L_i||_2, unweighted.
"""

import numpy as np
import torch


class GradNormOracle:
    def __init__(
        self,
        count: int,
        alpha: float,
        lr: float = 0.025,
        initial: np.ndarray | None = None,
        floor: float = 1e-4,
    ):
        self.alpha, self.floor = alpha, floor
        self.weights = torch.ones(count, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.weights], lr=lr)
        self.initial = None if initial is None else np.asarray(initial, dtype=np.float64)

    def step(self, losses: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """The weights the model uses in this step; afterwards the weights are those of the next."""
        losses, norms = np.asarray(losses, dtype=np.float64), np.asarray(norms, dtype=np.float64)
        if self.initial is None:
            self.initial = losses.copy()
        used = self.weights.detach().numpy().copy()

        ratios = losses / self.initial
        inverse_rates = ratios / ratios.mean()
        weighted_norms = self.weights * torch.from_numpy(norms)
        targets = (weighted_norms.mean() * torch.from_numpy(inverse_rates) ** self.alpha).detach()
        gradient_loss = (weighted_norms - targets).abs().sum()
        self.optimizer.zero_grad()
        gradient_loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.weights.clamp_(min=self.floor)
            self.weights.mul_(len(losses) / self.weights.sum())
        return used


def gradient_loss_slope(
    weights: np.ndarray, losses: np.ndarray, initial: np.ndarray, norms: np.ndarray, alpha: float
):
    """dL_grad/dw_i with the targets constant, by central differences."""
    ratios = losses / initial
    targets = (weights * norms).mean() * (ratios / ratios.mean()) ** alpha

    def gradient_loss(candidate: np.ndarray) -> float:
        return float(np.abs(candidate * norms - targets).sum())

    slopes = np.zeros_like(weights)
    for i in range(len(weights)):
        step = np.zeros_like(weights)
        step[i] = 1e-7
        slopes[i] = (gradient_loss(weights + step) - gradient_loss(weights - step)) / 2e-7
    return slopes
