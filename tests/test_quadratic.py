"""The quadratic programs, by their optimality conditions."""

import numpy as np
import pytest
import torch

from manyloss import quadratic


def problem(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of random rows, of full rank or not, and a slope whose entries differ by ``kind``."""
    generator = np.random.default_rng([seed, len(kind)])
    count, width = int(generator.integers(1, 14)), int(generator.integers(1, 14))
    rows = generator.normal(size=(count, width))
    if kind == "repeated rows":
        rows[-1] = rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    slope = rows @ generator.normal(size=width)  # in the span, or the program has no least value
    if kind == "far scales":
        slope = slope * 10.0 ** generator.uniform(-12, 0, count) + np.abs(slope)
    return rows @ rows.T, slope


@pytest.mark.parametrize("solver", ["nonnegative_quadratic", "_active_set"])
@pytest.mark.parametrize("kind", ["plain", "repeated rows", "far scales"])
def test_a_nonnegative_program_is_solved(kind: str, solver: str) -> None:
    """u >= 0, C u + s >= 0, and u (C u + s) = 0."""
    for seed in range(80):
        matrix, slope = problem(seed, kind)
        ridge = quadratic.RIDGE * np.eye(len(matrix)) if solver == "_active_set" else 0.0
        u = getattr(quadratic, solver)(matrix + ridge, slope)
        dual = matrix @ u + slope
        size = max(np.abs(slope).max(), np.abs(u).max())
        assert u.min() >= 0.0
        assert dual.min() >= -1e-9 * size
        assert np.abs(u * dual).max() <= 1e-9 * size**2


@pytest.mark.parametrize("spread", [0, 3, 6, 12, 35])
def test_the_minimum_norm_point_fulfils_its_condition_beside_the_shortest_row(spread: int) -> None:
    """<g_i, d> >= ||d||^2 up to rounding of ||g_i|| ||d||: tight however much longer g_i is."""
    for seed in range(60):
        generator = np.random.default_rng([spread, seed])
        count, width = int(generator.integers(1, 14)), int(generator.integers(1, 14))
        rows = generator.normal(size=(count, width)) * 10.0 ** generator.uniform(-spread, spread, (count, 1))
        weights = quadratic.minimum_norm_weights(torch.from_numpy(rows @ rows.T)).numpy()
        assert weights.min() >= 0.0
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        d = weights @ rows
        lengths = np.linalg.norm(rows, axis=1)
        assert ((rows @ d - d @ d) / lengths).min() >= -1e-9 * lengths.min()


def test_two_vectors_in_closed_form_are_the_program_for_more() -> None:
    for seed in range(200):
        generator = np.random.default_rng(seed)
        rows = generator.normal(size=(2, 3)) * 10.0 ** generator.uniform(-5, 5, (2, 1))
        two = quadratic.minimum_norm_weights(torch.from_numpy(rows @ rows.T)).numpy()
        three = np.concatenate([rows, rows[:1]])
        more = quadratic.minimum_norm_weights(torch.from_numpy(three @ three.T)).numpy()
        np.testing.assert_allclose(two @ rows, more @ three, atol=1e-9 * np.linalg.norm(rows, axis=1).min())
