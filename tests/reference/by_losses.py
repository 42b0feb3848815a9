"""Weightings that look at loss values: FAMO, STCH, geometric and log losses, SoftAdapt, ReLoBRaLo.

What is a scalarisation is differentiated by autograd: the weights are d (scalar) / d L.
"""

import numpy as np
import torch
from torch import Tensor


def slopes(scalar, losses: np.ndarray) -> np.ndarray:
    given = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(scalar(given), [given])
    return found.numpy()


def stch(losses: np.ndarray, mu: float, preferences: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    """mu log sum exp(p (L - z) / mu)  (Lin et al. 2024, eq. 8)."""
    p, z = torch.from_numpy(preferences), torch.from_numpy(ideal)
    return slopes(lambda L: mu * torch.log(torch.exp(p * (L - z) / mu).sum()), losses)


def geometric(losses: np.ndarray) -> np.ndarray:
    return slopes(lambda L: L.prod() ** (1.0 / len(L)), losses)


def log_losses(losses: np.ndarray) -> np.ndarray:
    return slopes(lambda L: L.log().sum(), losses)


class FAMOOracle:
    """Liu et al. 2023, Algorithm 1: weights of a step, then the losses after it."""

    def __init__(self, count: int, lr: float, weight_decay: float, minimum: float = 0.0):
        self.logits = torch.zeros(count, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=lr, weight_decay=weight_decay)
        self.minimum = minimum

    def weights(self, losses: np.ndarray) -> np.ndarray:
        shares = torch.softmax(self.logits.detach(), 0)
        given = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
        distance = given - self.minimum + 1e-8
        scale = (1.0 / (shares / distance.detach()).sum()).item()
        (found,) = torch.autograd.grad((scale * shares * distance.log()).sum(), [given])
        return found.numpy()

    def after(self, before: np.ndarray, after: np.ndarray) -> None:
        fall = torch.from_numpy(np.log(before - self.minimum + 1e-8) - np.log(after - self.minimum + 1e-8))
        self.optimizer.zero_grad()
        torch.softmax(self.logits, 0).backward(fall)  # J^T fall
        self.optimizer.step()


def softadapt(before: np.ndarray | None, now: np.ndarray, beta: float, variant: str) -> np.ndarray:
    """Heydari et al. 2019, section 2."""
    rates = np.zeros_like(now) if before is None else now - before
    if variant == "normalized" and np.abs(rates).sum() > 0:
        rates = rates / np.abs(rates).sum()
    powers = np.exp(beta * rates)
    if variant == "loss-weighted":
        powers = now * powers
    return powers / powers.sum()


class ReLoBRaLo:
    """Bischof and Kraus 2021; `keeps` is the draw R of a step."""

    def __init__(self, alpha: float, temperature: float):
        self.alpha, self.temperature = alpha, temperature
        self.losses: list[np.ndarray] = []

    def balance(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        powers = np.exp(now / before / self.temperature)
        return len(now) * powers / powers.sum()

    def weights(self, losses: np.ndarray, keeps: bool) -> np.ndarray:
        if not self.losses:
            self.last = np.ones(len(losses))
        else:
            history = self.last if keeps else self.balance(losses, self.losses[0])
            self.last = self.alpha * history + (1 - self.alpha) * self.balance(losses, self.losses[-1])
        self.losses.append(losses)
        return self.last


def ntk_traces(residuals: list[Tensor], parameters: list[Tensor]) -> list[float]:
    """sum_n ||d r(x_n) / d theta||^2, one backward per point (Wang, Yu and Perdikaris 2022)."""
    traces = []
    for residual in residuals:
        total = 0.0
        for point in residual.reshape(-1):
            grads = torch.autograd.grad(point, parameters, retain_graph=True, allow_unused=True)
            total += sum(float(grad.square().sum()) for grad in grads if grad is not None)
        traces.append(total)
    return traces
