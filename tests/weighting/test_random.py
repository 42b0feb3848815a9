"""Random weights: T times the softmax of T standard normals, its own generator, drawn anew each step."""

import numpy as np
import torch

from manyloss import MultiLoss
from manyloss.weighting import Random
from tests.problems import Given, names
from tests.reference.random_weighting import centred_logits, weights_from_normals

ROWS = torch.eye(4, dtype=torch.float64)


def draws(seed: int, steps: int) -> np.ndarray:
    given, multi = Given(ROWS), MultiLoss(weighting=Random(seed=seed))
    weights = []
    for _ in range(steps):
        merged, result = given.at_shared_params(multi)
        weights.append([float(result.weights[name]) for name in names(4)])
        np.testing.assert_allclose(merged.numpy(), weights[-1])  # row i is the i-th unit vector
    return np.array(weights)


def test_weights_are_a_softmax_of_standard_normals() -> None:
    weights = draws(3, 1500)
    np.testing.assert_allclose(weights.sum(axis=1), 4.0)
    logits = np.array([centred_logits(row) for row in weights])
    np.testing.assert_allclose(logits.mean(axis=0), 0.0, atol=0.12)
    # The covariance of normals minus their mean: identity minus 1/T.
    np.testing.assert_allclose(np.cov(logits.T), np.eye(4) - 0.25, atol=0.12)
    np.testing.assert_allclose(weights_from_normals(logits[0]), weights[0])


def test_every_step_draws_anew_and_a_seed_repeats() -> None:
    weights = draws(3, 20)
    assert len(np.unique(weights, axis=0)) == 20
    assert np.array_equal(draws(3, 20), weights)
    assert not np.array_equal(draws(4, 20), weights)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    draws(3, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
