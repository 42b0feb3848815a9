"""CAGrad against SLSQP on its dual, and against the primal it stands for."""

import numpy as np
import pytest
import torch

from manyloss.gradients import LossGradients
from manyloss.quadratic import minimum_norm_weights
from manyloss.weighting import CAGrad
from tests.reference.cagrad import cagrad, worst_improvement


def update_of(rows: np.ndarray, c: float, dtype: torch.dtype = torch.float64) -> np.ndarray:
    gradients = LossGradients.of(torch.from_numpy(rows).to(dtype))
    weights = CAGrad(c=c)(gradients)
    return gradients.combine(weights)[0].double().numpy()


@pytest.mark.parametrize("c", [0.0, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("count", range(1, 8))
def test_the_update_is_the_oracles(count: int, c: float) -> None:
    for seed in range(3):
        generator = np.random.default_rng([count, seed])
        rows = generator.normal(size=(count, 9)) * np.exp(generator.normal(size=(count, 1)))
        scale = np.linalg.norm(rows, axis=1).max()
        update, expected = update_of(rows, c), cagrad(rows, c)
        assert worst_improvement(rows, update) >= worst_improvement(rows, expected) - 1e-6 * scale**2
        np.testing.assert_allclose(update, expected, atol=2e-3 * scale)


@pytest.mark.parametrize("c", [0.1, 0.4])
@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize("width", [3, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_update_stays_in_the_ball_around_the_mean(
    count: int, width: int, c: float, dtype: torch.dtype
) -> None:
    """||d - g_0|| <= c ||g_0||, also where 0 lies inside the hull and g_w has no direction."""
    for seed in range(4):
        rows = np.random.default_rng([count, width, seed]).normal(size=(count, width))
        mean = rows.mean(axis=0)
        distance = np.linalg.norm(update_of(rows, c, dtype) - mean)
        assert distance <= c * np.linalg.norm(mean) * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("count", [2, 4, 7])
def test_the_worst_improvement_is_no_worse_than_the_means(count: int) -> None:
    for seed in range(10):
        rows = np.random.default_rng([count, seed]).normal(size=(count, 10))
        better = worst_improvement(rows, update_of(rows, 0.4))
        assert better >= worst_improvement(rows, rows.mean(axis=0)) - 1e-9


DEFICIENT = {
    "plain": lambda rows, generator: rows,
    "a zero row": lambda rows, generator: rows * (np.arange(len(rows)) != 1)[:, None],
    "two zero rows": lambda rows, generator: rows * (np.arange(len(rows)) > 1)[:, None],
    "rank one": lambda rows, generator: generator.normal(size=(len(rows), 1)) * rows[:1],
    "rank two": lambda rows, generator: generator.normal(size=(len(rows), 2)) @ generator.normal(size=(2, 9)),
    "repeated rows": lambda rows, generator: np.concatenate([rows[:1], rows[:-1]]),
    "opposite rows": lambda rows, generator: np.concatenate([-3 * rows[:1], rows[:-1]]),
    "alike": lambda rows, generator: rows + 3.0,
    "few numbers": lambda rows, generator: rows[:, :2],
    "far lengths": lambda rows, generator: rows * 10.0 ** generator.uniform(-12, 12, (len(rows), 1)),
}


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 1.5])
@pytest.mark.parametrize("count", [2, 3, 4, 8, 15])
@pytest.mark.parametrize("kind", DEFICIENT)
def test_the_duality_gap_is_closed(kind: str, count: int, c: float) -> None:
    """min_i <g_i, d> reaches <g_w, g_0> + r ||g_w|| of some w of the simplex, which no d in the ball exceeds.

    Two w are tried: that of the weights, and that of the shortest point, where g_w may be 0.
    """
    for seed in range(8):
        generator = np.random.default_rng([count, seed])
        rows = DEFICIENT[kind](generator.normal(size=(count, 9)), generator)
        scale = np.linalg.norm(rows, axis=1).max()
        if scale == 0.0:
            continue
        weights = CAGrad(c=c)(LossGradients.of(torch.from_numpy(rows))).numpy()
        mean = rows.mean(axis=0)
        radius, extra = c * np.linalg.norm(mean), weights - 1.0 / count
        candidates = [minimum_norm_weights(torch.from_numpy(rows @ rows.T)).numpy()]
        if extra.max() > 0.0:
            candidates.append(np.maximum(extra, 0.0) / np.maximum(extra, 0.0).sum())
        bound = min((w @ rows) @ mean + radius * np.linalg.norm(w @ rows) for w in candidates)
        step = extra @ rows
        assert extra.min() >= -1e-15
        assert np.linalg.norm(step) <= radius + 1e-5 * scale
        assert bound - worst_improvement(rows, mean + step) <= 1e-6 * scale**2


def test_a_zero_gradient_by_hand() -> None:
    """No d can help the loss without a gradient, so 0 is best: the nearest d that hurts no loss is taken."""
    rows = np.array([[0.0, 0.0], [3.0, 1.0], [-1.0, 1.0]])  # g_0 = (2, 2) / 3 hurts none
    np.testing.assert_allclose(update_of(rows, 0.4), rows.mean(axis=0), rtol=1e-12)
    rows = np.array([[0.0, 0.0], [4.0, 0.0], [-1.0, 1.0]])  # g_0 = (1, 1/3) hurts the last: by 2 / 3
    np.testing.assert_allclose(update_of(rows, 0.9), [2 / 3, 2 / 3], rtol=1e-9)


def test_a_radius_of_zero_is_the_mean_gradient() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(update_of(rows, 0.0), rows.mean(axis=0), rtol=1e-12)


def test_one_loss_is_lengthened() -> None:
    """The scale is as published: d = (1 + c) g."""
    rows = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(update_of(rows, 0.4), 1.4 * rows[0], rtol=1e-12)


def test_opposite_gradients_by_hand() -> None:
    """g_0 = 0.5, radius 0.2: the second loss is hurt least at 0.3."""
    np.testing.assert_allclose(update_of(np.array([[2.0], [-1.0]]), 0.4), [0.3], rtol=1e-6)


def test_a_negative_radius_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match=r"c must be a finite number, 0 or more, got -0\.1"):
        CAGrad(c=-0.1)
