"""Aligned-MTL against the singular values of the vectors."""

import numpy as np
import pytest

from manyloss.weighting import AlignedMTL
from manyloss.weighting.aligned_mtl import SCALES
from tests.reference.aligned_mtl import aligned_mtl
from tests.weighting.rows import KINDS, rows_of, step_of


@pytest.mark.parametrize("scale_mode", SCALES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_step_is_the_oracles(count: int, kind: str, scale_mode: str) -> None:
    for seed in range(5):
        rows = rows_of(kind, count, seed)
        scale = np.linalg.norm(rows, axis=1).max()
        found, expected = step_of(AlignedMTL(scale_mode), rows), aligned_mtl(rows, scale_mode)
        np.testing.assert_allclose(found, expected, atol=1e-8 * scale)


@pytest.mark.parametrize("kind", ["zero row", "repeated rows", "rank one"])
def test_dependent_rows_keep_their_rank(kind: str) -> None:
    rows = rows_of("wide", 4, 0)
    rows = {
        "zero row": rows * np.array([[1.0], [0.0], [1.0], [1.0]]),
        "repeated rows": rows[[0, 1, 1, 2]],
        "rank one": np.array([[1.0], [2.0], [-1.0], [3.0]]) * rows[:1],
    }[kind]
    np.testing.assert_allclose(step_of(AlignedMTL(), rows), aligned_mtl(rows, "min"), atol=1e-8)


def test_one_loss_is_plain_and_right_angles_of_one_length_are_the_mean() -> None:
    np.testing.assert_allclose(step_of(AlignedMTL(), np.array([[3.0, 4.0]])), [3.0, 4.0])
    np.testing.assert_allclose(step_of(AlignedMTL(), 2 * np.eye(3)), np.full(3, 2 / 3))


def test_an_unknown_scale_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="scale_mode must be one of 'min', 'median', 'rmse'; received 'max'"):
        AlignedMTL("max")
