"""GradDrop (Chen et al. 2020, Algorithm 1), one position at a time, for a given uniform draw."""

from collections.abc import Callable, Sequence

import numpy as np


def clip_activation(k: float) -> Callable[[float], float]:
    """f(p) = clip(k (p - 0.5) + 0.5, 0, 1)."""
    return lambda purity: min(max(k * (purity - 0.5) + 0.5, 0.0), 1.0)


def graddrop(
    gradients: np.ndarray,
    features: np.ndarray | None,
    uniform: np.ndarray,
    activation: Callable[[float], float],
    leak: Sequence[float],
    sum_over_batch: bool,
) -> np.ndarray:
    """gradients [T, B, *F] and features [B, *F]; or gradients [T, P] and None (no batch then).

    uniform: one number per position of one example (`sum_over_batch`), or per position of the batch.
    """
    gradients = np.asarray(gradients, dtype=np.float64)
    count = len(gradients)
    merged = np.zeros(gradients.shape[1:])
    batched = sum_over_batch and features is not None
    for position in np.ndindex(uniform.shape):
        signals = []
        for i in range(count):
            if batched:
                signal = 0.0
                for b in range(gradients.shape[1]):
                    signal += np.sign(features[(b, *position)]) * gradients[(i, b, *position)]
            else:
                signal = gradients[(i, *position)]
            signals.append(signal)
        size = sum(abs(signal) for signal in signals)
        keep = [1.0] * count
        if size > 0.0:
            purity = 0.5 * (1.0 + sum(signals) / size)
            positive = uniform[position] < activation(purity)
            keep = [float(signal > 0.0 if positive else signal < 0.0) for signal in signals]
        for i in range(count):
            passed = leak[i] + (1.0 - leak[i]) * keep[i]
            if batched:
                for b in range(gradients.shape[1]):
                    merged[(b, *position)] += passed * gradients[(i, b, *position)]
            else:
                merged[position] += passed * gradients[(i, *position)]
    return merged


def purity(gradients: np.ndarray, features: np.ndarray | None, sum_over_batch: bool) -> np.ndarray:
    """P of eq. 1 at the virtual weight (batch sums) or raw; 0.5 where every gradient is zero."""
    gradients = np.asarray(gradients, dtype=np.float64)
    if sum_over_batch and features is not None:
        gradients = (np.sign(features)[None] * gradients).sum(axis=1)
    size = np.abs(gradients).sum(axis=0)
    return 0.5 * (1.0 + np.divide(gradients.sum(axis=0), size, out=np.zeros_like(size), where=size > 0))


def loss_change_moments(
    positive: float, negative: float, activation: Callable[[float], float]
) -> tuple[float, float]:
    """Mean and variance of the linear estimate of the total loss's change (rate 1), appendix A.1.

    With probability f(P) the update is p, otherwise -n; the change is -(p - n) times the update.
    """
    keep_positive = activation(positive / (positive + negative))
    slope = positive - negative
    outcomes = [(-slope * positive, keep_positive), (slope * negative, 1.0 - keep_positive)]
    mean = sum(value * chance for value, chance in outcomes)
    return mean, sum((value - mean) ** 2 * chance for value, chance in outcomes)
