"""Gramian, cosines and the quadratic programs on the simplex, by their optimality conditions."""

import numpy as np
import pytest
import torch

from manyloss import linalg


def gap(quadratic: np.ndarray, linear: np.ndarray, weights: np.ndarray) -> float:
    """How far w^T Q w / 2 + q^T w can fall to first order, relative to the largest number of the problem."""
    slope = quadratic @ weights + linear
    size = max(np.abs(quadratic).max(), np.abs(linear).max(), 1e-300)
    return float((slope @ weights - slope.min()) / size)


@pytest.mark.parametrize("spread", [0, 3, 6, 12])
@pytest.mark.parametrize("kind", ["none", "mean"])
def test_simplex_quadratic_is_optimal(kind: str, spread: int) -> None:
    generator = np.random.default_rng([spread, len(kind)])
    for _ in range(60):
        count, width = int(generator.integers(1, 14)), int(generator.integers(1, 14))
        rows = generator.normal(size=(count, width)) * 10.0 ** generator.uniform(-spread, spread, (count, 1))
        quadratic = rows @ rows.T
        linear = np.zeros(count) if kind == "none" else quadratic.mean(axis=1)  # MGDA's and CAGrad's
        weights = linalg.simplex_quadratic(quadratic, linear)
        assert weights.min() >= 0.0
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert gap(quadratic, linear, weights) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_gramian_neither_vanishes_nor_overflows(dtype: torch.dtype, scale: float) -> None:
    rows = [torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)]
    expected = sum(tensor.flatten(1) @ tensor.flatten(1).T for tensor in rows)
    found = linalg.gramian([(tensor * scale).to(dtype) for tensor in rows])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found / scale**2, expected, rtol=1e-5, atol=1e-5)


def test_cosines_of_zero_rows_are_zero() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-6.0, -8.0]], dtype=torch.float64)
    found = linalg.cosines(linalg.gramian([rows]))
    expected = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
