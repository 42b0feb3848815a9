"""UPGrad against projections of the vectors themselves."""

import numpy as np
import pytest

from manyloss.weighting import UPGrad
from tests.reference.upgrad import upgrad
from tests.weighting.rows import KINDS, rows_of, step_of, weights_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_the_step_is_the_oracles(count: int, kind: str) -> None:
    for seed in range(6):
        rows = rows_of(kind, count, seed)
        scale = np.linalg.norm(rows, axis=1).max()
        np.testing.assert_allclose(step_of(UPGrad(), rows), upgrad(rows), atol=1e-9 * scale)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_dependent_rows_are_projected_too(width: int) -> None:
    for seed in range(10):
        rows = np.random.default_rng(seed).normal(size=(6, width))
        rows[2] = 0.0
        rows[3] = rows[0]
        np.testing.assert_allclose(step_of(UPGrad(), rows), upgrad(rows), atol=1e-6)


@pytest.mark.parametrize("count", [2, 7, 30])
def test_no_loss_is_hurt(count: int) -> None:
    for seed in range(5):
        rows = rows_of("conflict", count, seed)
        assert (rows @ step_of(UPGrad(), rows)).min() >= -1e-9


def test_without_conflict_it_is_the_mean_gradient() -> None:
    np.testing.assert_allclose(weights_of(UPGrad(), np.eye(4) + 0.1), np.full(4, 0.25), rtol=1e-12)
