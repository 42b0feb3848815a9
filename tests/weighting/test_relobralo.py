"""ReLoBRaLo against its formula, for the draws that were made."""

import numpy as np
import pytest

from manyloss.weighting import ReLoBRaLo
from tests.reference.by_losses import ReLoBRaLo as Oracle
from tests.weighting.by_values import Values


@pytest.mark.parametrize("rho", [0.0, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_follow_the_oracle(count: int, rho: float) -> None:
    steps, oracle = Values(ReLoBRaLo(0.8, 0.5, rho, seed=0)), Oracle(0.8, 0.5)
    for losses in 0.5 + np.random.default_rng(count).random((12, count)):
        weights = steps(losses)
        np.testing.assert_allclose(weights, oracle.weights(losses, rho == 1.0), rtol=1e-10)
        assert weights.sum() == pytest.approx(count)


def test_it_looks_back_as_seldom_as_rho_says() -> None:
    steps, oracle = Values(ReLoBRaLo(0.5, 0.5, 0.7, seed=0)), Oracle(0.5, 0.5)
    kept = 0
    for losses in 0.5 + np.random.default_rng(0).random((800, 3)):
        weights = steps(losses)
        last = getattr(oracle, "last", None)
        options = {}
        for keeps in (True, False):
            oracle.last = last
            options[keeps] = oracle.weights(losses, keeps)
            oracle.losses.pop()
        keeps = bool(np.abs(weights - options[True]).max() <= np.abs(weights - options[False]).max())
        np.testing.assert_allclose(weights, options[keeps], rtol=1e-9)
        kept += keeps
        oracle.last = options[keeps]
        oracle.losses.append(losses)
    assert abs(kept / 800 - 0.7) <= 5 * np.sqrt(0.7 * 0.3 / 800)


def test_less_progress_gains_weight_and_tiny_losses_do_not_overflow() -> None:
    steps = Values(ReLoBRaLo(0.5, 0.1, 1.0, seed=0))
    steps([1.0, 1.0])
    slow, fast = steps([0.9, 0.1])
    assert slow > 1.0 > fast
    assert np.isfinite(Values(ReLoBRaLo(seed=0))([1e-300, 1e300])).all()


def test_a_skipped_step_leaves_no_trace() -> None:
    method = ReLoBRaLo(seed=0)
    steps = Values(method)
    steps([1.0, 1.0])
    before = list(method.state.last)
    with pytest.raises(ValueError, match="Loss 'loss_1' is nan"):
        steps([0.5, float("nan")])
    assert method.state.last == before
