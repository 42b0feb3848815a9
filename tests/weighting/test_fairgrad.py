"""FairGrad and Nash-MTL against a search over the step itself, and by their defining equation."""

import numpy as np
import pytest

from manyloss.weighting import FairGrad, NashMTL
from tests.reference.fair import fair_step
from tests.weighting.rows import KINDS, rows_of, step_of, weights_of


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_the_step_is_the_oracles(count: int, kind: str, alpha: float) -> None:
    for seed in range(3):
        rows = rows_of(kind, count, seed)
        found, expected = step_of(FairGrad(alpha), rows), fair_step(rows, alpha)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.linalg.norm(expected))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 20.0])
@pytest.mark.parametrize("count", [2, 10, 40])
def test_the_weights_solve_their_equation(count: int, alpha: float) -> None:
    """(G w)_i = w_i^(-1/alpha)."""
    for seed in range(4):
        rows = rows_of("wide", count, seed)
        weights = weights_of(FairGrad(alpha), rows)
        assert weights.min() > 0.0
        np.testing.assert_allclose((rows @ (weights @ rows)) * weights ** (1 / alpha), 1.0, rtol=1e-6)


def test_nash_is_fair_with_alpha_one() -> None:
    for count in (1, 2, 3, 8):
        for seed in range(4):
            rows = rows_of("lengths", count, seed)
            np.testing.assert_allclose(
                weights_of(NashMTL(), rows), weights_of(FairGrad(1.0), rows), rtol=1e-6
            )


def test_a_nash_step_has_one_length_whatever_the_gradients() -> None:
    for scale in (1e-9, 1.0, 1e9):
        rows = rows_of("lengths", 4, 0) * scale
        assert np.linalg.norm(step_of(NashMTL(), rows)) == pytest.approx(2.0, rel=1e-6)


def test_two_losses_by_hand() -> None:
    """Right angles: w_i = 1 / ||g_i||."""
    np.testing.assert_allclose(
        weights_of(NashMTL(), np.array([[2.0, 0.0], [0.0, 0.5]])), [0.5, 2.0], rtol=1e-7
    )


@pytest.mark.parametrize("method", [NashMTL(), FairGrad(0.5), FairGrad(2.0)])
def test_where_gradients_cancel_no_direction_is_left(method) -> None:
    opposite = np.array([[1.0, 0.0], [-2.0, 0.0]])
    assert np.linalg.norm(step_of(method, opposite)) <= 1e-3
    with_a_third = np.array([[1.0, 0.0], [-2.0, 0.0], [0.3, 0.7]])
    step = step_of(method, with_a_third)
    assert abs(step[0]) <= 1e-3
    assert step[1] > 0.1
    with_zero = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert weights_of(method, with_zero)[1] == 0.0


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_how_the_step_scales_with_the_gradients(alpha: float, scale: float) -> None:
    rows = rows_of("wide", 4, 1)
    expected = step_of(FairGrad(alpha), rows) * scale ** ((1 - alpha) / (1 + alpha))
    np.testing.assert_allclose(step_of(FairGrad(alpha), rows * scale), expected, rtol=1e-8)


def test_a_negative_alpha_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="alpha must be a finite number above 0, got -1"):
        FairGrad(-1)
