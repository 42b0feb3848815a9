"""Gradients from 1e-40 to 1e30 in one step: weights are finite float64, and so is the right combination.

A saturated loss has a gradient below what single precision can square. The weight that projects a longer
gradient off it is 1e38 and more, and times that short gradient again an ordinary number.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from manyloss.gradients import LossGradients
from manyloss.weighting import MGDA, CAGrad, IterativePCGrad, PCGrad
from tests.reference.pcgrad import all_iterative_pcgrad, all_pcgrad

LENGTHS = [(1e-40, 1.0), (1e-40, 1e30), (1e-40, 1e-20, 1.0), (1e30, 1e-35, 1e-5), (1e-30, 1e-10, 1e10, 1e30)]
ORACLES = {PCGrad: all_pcgrad, IterativePCGrad: all_iterative_pcgrad}
cases = pytest.mark.parametrize(
    ("lengths", "dtype"), [(each, dtype) for each in LENGTHS for dtype in (torch.float32, torch.float64)]
)


def rows_of(lengths: tuple[float, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Rows in conflict, in the type they would arrive in."""
    generator = np.random.default_rng([len(lengths), seed])
    rows = generator.normal(size=(len(lengths), 5))
    rows -= 1.2 * rows.mean(axis=0)
    rows *= np.array(lengths)[:, None] / np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows).to(dtype)


def combined(weights: torch.Tensor, rows: torch.Tensor) -> list[Fraction]:
    """sum_i w_i g_i without rounding."""
    exact = [[Fraction(number) for number in row] for row in rows.double().tolist()]
    factors = [Fraction(weight) for weight in weights.tolist()]
    return [
        sum((w * row[k] for w, row in zip(factors, exact, strict=True)), start=Fraction(0))
        for k in range(rows.shape[1])
    ]


def inner(first: list[Fraction], second: list[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(first, second, strict=True)), start=Fraction(0))


@pytest.mark.parametrize("method", ORACLES, ids=lambda method: method.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "lengths", [each for each in LENGTHS if len(each) < 4]
)  # the oracle tries all orders
def test_projections_are_those_of_the_vectors(method, lengths, dtype) -> None:
    for seed in range(5):
        rows = rows_of(lengths, dtype, seed)
        weights = method(seed=seed)(LossGradients.of(rows))
        assert bool(torch.isfinite(weights).all())
        found = np.array([float(number) for number in combined(weights, rows)])
        outcomes = ORACLES[method](rows.double().numpy())
        size = max(np.abs(outcome).max() for outcome in outcomes)
        assert min(np.abs(found - outcome).max() for outcome in outcomes) <= 1e-9 * size


@cases
def test_the_minimum_norm_point_hurts_none_however_short(lengths, dtype) -> None:
    for seed in range(10):
        rows = rows_of(lengths, dtype, seed)
        weights = MGDA()(LossGradients.of(rows))
        assert bool(torch.isfinite(weights).all())
        d = combined(weights, rows)
        exact = [[Fraction(number) for number in row] for row in rows.double().tolist()]
        lengths_found = [float(inner(row, row)) ** 0.5 for row in exact]
        for row, length in zip(exact, lengths_found, strict=True):
            assert float(inner(row, d) - inner(d, d)) >= -1e-7 * length * min(lengths_found)


@pytest.mark.parametrize("c", [0.2, 0.8])
@cases
def test_cagrad_stays_in_its_ball_and_hurts_none_it_could_help(lengths, dtype, c) -> None:
    for seed in range(10):
        rows = rows_of(lengths, dtype, seed)
        weights = CAGrad(c=c)(LossGradients.of(rows))
        assert bool(torch.isfinite(weights).all())
        d = np.array([float(number) for number in combined(weights, rows)])
        vectors = rows.double().numpy()
        longest = np.linalg.norm(vectors, axis=1).max()
        mean = vectors.mean(axis=0)
        assert np.linalg.norm(d - mean) <= c * np.linalg.norm(mean) + 1e-6 * longest
        assert (vectors @ d).min() >= (vectors @ mean).min() - 1e-6 * longest**2
