"""STCH, geometric and log losses against autograd of the scalar they stand for."""

import numpy as np
import pytest

from manyloss.weighting import STCH, GeometricLoss, LogLoss
from tests.reference.by_losses import geometric, log_losses, stch
from tests.weighting.by_values import Values


def losses_of(count: int, seed: int) -> np.ndarray:
    return np.exp(np.random.default_rng([count, seed]).normal(size=count))


@pytest.mark.parametrize("mu", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_stch(count: int, mu: float) -> None:
    for seed in range(4):
        losses = losses_of(count, seed)
        generator = np.random.default_rng(seed)
        preferences, ideal = generator.dirichlet(np.ones(count)), 0.1 * generator.normal(size=count)
        found = Values(STCH(mu, preferences.tolist(), ideal.tolist()))(losses)
        np.testing.assert_allclose(found, stch(losses, mu, preferences, ideal), rtol=1e-9)
        even = stch(losses, mu, np.full(count, 1.0 / count), np.zeros(count))
        np.testing.assert_allclose(Values(STCH(mu))(losses), even, rtol=1e-9)


def test_a_small_mu_is_the_maximum_and_does_not_overflow() -> None:
    np.testing.assert_allclose(Values(STCH(1e-4))([1e5, 2e5, -3e5]), [0.0, 1 / 3, 0.0], atol=1e-12)


def test_stch_settings() -> None:
    with pytest.raises(ValueError, match="mu must be a finite number above 0, got 0"):
        STCH(0)
    with pytest.raises(ValueError, match="preferences of STCH must be a finite number, 0 or more, got -1"):
        STCH(preferences={"a": -1})
    with pytest.raises(ValueError, match="STCH: preferences has 1 values for the 2 losses"):
        Values(STCH(preferences=[1.0]))([1.0, 2.0])


@pytest.mark.parametrize("count", [1, 2, 6])
def test_geometric_and_log_losses(count: int) -> None:
    for seed in range(4):
        losses = losses_of(count, seed)
        np.testing.assert_allclose(Values(GeometricLoss())(losses), geometric(losses), rtol=1e-10)
        np.testing.assert_allclose(Values(LogLoss())(losses), log_losses(losses), rtol=1e-10)


@pytest.mark.parametrize("method", [GeometricLoss, LogLoss])
def test_no_losss_unit_matters_to_the_direction(method) -> None:
    units = np.array([1e-3, 1.0, 1e6])
    plain, scaled = Values(method())([0.5, 2.0, 3.0]), Values(method())(units * [0.5, 2.0, 3.0])
    direction, other = plain * [0.5, 2.0, 3.0], scaled * units * [0.5, 2.0, 3.0]
    np.testing.assert_allclose(direction / direction.sum(), other / other.sum(), rtol=1e-10)


def test_many_tiny_losses_do_not_underflow() -> None:
    weights = Values(GeometricLoss())([1e-200, 1e-250, 1e-300])
    np.testing.assert_allclose(weights * [1e-200, 1e-250, 1e-300] * 3, np.full(3, 1e-250), rtol=1e-9)
