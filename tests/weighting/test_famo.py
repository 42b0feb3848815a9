"""FAMO against Algorithm 1 with torch's Adam: with losses of the same batch, and with the next step's."""

import numpy as np
import pytest
import torch

from manyloss.weighting import FAMO
from tests.problems import names
from tests.reference.by_losses import FAMOOracle
from tests.weighting.by_values import Values


def trajectory(count: int, steps: int = 30) -> np.ndarray:
    generator = np.random.default_rng(count)
    fall = np.exp(-0.1 * np.arange(steps)[:, None] * (1 + np.arange(count)))
    return (0.5 + generator.random((steps, count))) * fall


@pytest.mark.parametrize("optimizer", [None, lambda p: torch.optim.Adam(p, lr=0.1)])
@pytest.mark.parametrize("minimum", [0.0, -2.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_next_steps_losses_are_those_after_a_step(count: int, minimum: float, optimizer) -> None:
    steps = Values(FAMO(lr=0.1, weight_decay=0.01, minimum=minimum, optimizer=optimizer))
    oracle = FAMOOracle(count, 0.1, 0.01, minimum)
    before = None
    for losses in trajectory(count):
        if before is not None:
            oracle.after(before, losses)
        np.testing.assert_allclose(steps(losses), oracle.weights(losses), rtol=1e-9)
        before = losses


def test_observed_losses_are_those_of_the_same_batch() -> None:
    method = FAMO(lr=0.1)
    steps, oracle = Values(method), FAMOOracle(3, 0.1, 1e-3)
    for losses in trajectory(3):
        np.testing.assert_allclose(steps(losses), oracle.weights(losses), rtol=1e-9)
        after = losses * np.array([0.5, 0.9, 1.1])
        method.observe(dict(zip(names(3), after, strict=True)))
        oracle.after(losses, after)


def test_weights_are_shares_and_a_slow_loss_gains() -> None:
    steps = Values(FAMO(lr=0.05))
    for step in range(40):
        slow, fast = steps([1.0, 0.9**step])
        assert slow + fast == pytest.approx(1.0)
    logits = steps.multi.weighting.state.logits
    assert logits[0] > 0.1 > -0.1 > logits[1]


def test_an_absent_loss_keeps_its_logit() -> None:
    steps = Values(FAMO(lr=0.1))
    steps([1.0, 1.0, 1.0])
    steps([0.5, 0.9, 0.7])
    before = list(steps.multi.weighting.state.logits)
    steps([0.4, None, 0.6])
    after = steps.multi.weighting.state.logits
    assert after[1] == before[1]
    assert after[0] != before[0]


def test_a_loss_below_its_minimum_is_named() -> None:
    with pytest.raises(ValueError, match=r"FAMO: the value of loss 'loss_1' is 0.5, .* above minimum=1"):
        Values(FAMO(minimum={"loss_0": 0.0, "loss_1": 1.0}))([1.0, 0.5])
