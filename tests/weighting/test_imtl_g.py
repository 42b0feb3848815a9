"""IMTL-G against the paper's closed form on vectors, and against what it promises."""

import numpy as np
import pytest

from manyloss.weighting import IMTLG
from tests.reference.imtl import imtl_g
from tests.weighting.rows import KINDS, rows_of, step_of, weights_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_weights_are_the_oracles(count: int, kind: str) -> None:
    for seed in range(6):
        rows = rows_of(kind, count, seed)
        np.testing.assert_allclose(weights_of(IMTLG(), rows), imtl_g(rows), rtol=1e-6, atol=1e-8)


def test_all_projections_are_equally_long() -> None:
    for seed in range(5):
        rows = rows_of("lengths", 5, seed)
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        shadows = units @ step_of(IMTLG(), rows)
        np.testing.assert_allclose(shadows, np.full(5, shadows.mean()), rtol=1e-8)


def test_rows_without_a_solution_give_finite_weights() -> None:
    np.testing.assert_array_equal(weights_of(IMTLG(), np.array([[1.0], [-1.0]])), [0.0, 0.0])
    weights = weights_of(IMTLG(), np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(weights, [2 / 3, 0.0, 1 / 3], rtol=1e-12)
    np.testing.assert_allclose(weights_of(IMTLG(), np.ones((3, 2))), np.full(3, 1 / 3), rtol=1e-9)
