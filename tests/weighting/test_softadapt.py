"""SoftAdapt against its formula, and what happens where that has no value."""

import numpy as np
import pytest

from manyloss.weighting import SoftAdapt
from manyloss.weighting.softadapt import VARIANTS
from tests.reference.by_losses import softadapt
from tests.weighting.by_values import Values


@pytest.mark.parametrize("beta", [0.1, 2.0, -1.0])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_follow_the_oracle(count: int, variant: str, beta: float) -> None:
    steps, before = Values(SoftAdapt(beta, variant)), None
    for losses in 1.0 + np.random.default_rng(count).random((10, count)):
        np.testing.assert_allclose(steps(losses), softadapt(before, losses, beta, variant), rtol=1e-10)
        before = losses


def test_a_rising_loss_gains_weight() -> None:
    steps = Values(SoftAdapt(1.0))
    steps([1.0, 1.0])
    rising, falling = steps([1.5, 0.5])
    assert rising > 0.5 > falling


@pytest.mark.parametrize("variant", VARIANTS)
def test_still_huge_and_zero_losses_give_shares(variant: str) -> None:
    steps = Values(SoftAdapt(0.1, variant))
    for losses in ([1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1e6, 0.0], [0.0, 0.0]):
        weights = steps(losses)
        assert np.isfinite(weights).all()
        assert weights.sum() == pytest.approx(1.0)


def test_an_absent_loss_is_compared_with_its_last_value() -> None:
    steps = Values(SoftAdapt(1.0))
    for losses in ([1.0, 1.0, 1.0], [1.0, None, 1.0]):
        steps(losses)
    np.testing.assert_allclose(
        steps([1.0, 2.0, 1.0]), softadapt(np.ones(3), np.array([1.0, 2.0, 1.0]), 1.0, "original")
    )
