"""Weightings that look at the size of gradients: MetaBalance, learning-rate annealing, DB-MTL. On vectors."""

import numpy as np


class MetaBalance:
    """He et al. 2022, Algorithm 1, for one block of parameters."""

    def __init__(self, target: int, relax: float, beta: float, strategy: str):
        self.target, self.relax, self.beta, self.strategy = target, relax, beta, strategy
        self.averages: np.ndarray | None = None

    def merge(self, gradients: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(gradients, axis=1)
        old = np.zeros(len(norms)) if self.averages is None else self.averages
        self.averages = self.beta * old + (1 - self.beta) * norms
        goal = self.averages[self.target]
        total = gradients[self.target].copy()
        for i, gradient in enumerate(gradients):
            if i == self.target:
                continue
            longer = self.averages[i] > goal
            if (self.strategy == "shrink" and not longer) or (self.strategy == "grow" and longer):
                total += gradient
                continue
            scaled = gradient * goal / self.averages[i]
            total += scaled * self.relax + gradient * (1 - self.relax)
        return total


class Annealing:
    """Wang, Teng and Perdikaris 2021, Algorithm 1."""

    def __init__(self, count: int, residual: int, rate: float):
        self.weights, self.residual, self.rate = np.ones(count), residual, rate

    def merge(self, gradients: np.ndarray) -> np.ndarray:
        for i, gradient in enumerate(gradients):
            if i != self.residual:
                wanted = np.abs(gradients[self.residual]).max() / np.abs(gradient).mean()
                self.weights[i] = (1 - self.rate) * self.weights[i] + self.rate * wanted
        return self.weights @ gradients


class DBMTLOracle:
    """Lin et al. 2023, Algorithm 1, with gradients of the log losses given."""

    def __init__(self, beta: float, decay: float):
        self.beta, self.decay, self.step = beta, decay, 0
        self.averages: np.ndarray | None = None

    def merge(self, gradients: np.ndarray) -> np.ndarray:
        self.step += 1
        forget = self.beta / self.step**self.decay
        old = np.zeros_like(gradients) if self.averages is None else self.averages
        self.averages = forget * old + (1 - forget) * gradients
        norms = np.linalg.norm(self.averages, axis=1)
        return norms.max() * (self.averages / norms[:, None]).sum(axis=0)
