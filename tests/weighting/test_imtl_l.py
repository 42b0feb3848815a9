"""IMTL-L against its objective, differentiated by autograd and followed by torch's Adam."""

import numpy as np
import pytest

from manyloss.weighting import IMTLL
from tests.reference.imtl import imtl_l
from tests.weighting.by_values import Values


@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_follow_the_oracle(count: int) -> None:
    losses = np.exp(np.random.default_rng(count).normal(size=(40, count)))
    steps = Values(IMTLL(lr=0.05))
    found = [steps(row) for row in losses]
    np.testing.assert_allclose(found, imtl_l(losses, 0.05), rtol=1e-10)


def test_at_rest_all_scaled_losses_are_one() -> None:
    steps = Values(IMTLL(lr=0.05))
    for _ in range(1500):
        weights = steps([4.0, 0.5])
    np.testing.assert_allclose(weights, [0.25, 2.0], rtol=1e-3)
