"""MGDA against an enumeration of faces, its optimality condition where that is too slow, and the scales."""

import numpy as np
import pytest
import torch

from manyloss import MultiLoss
from manyloss.gradients import LossGradients
from manyloss.weighting import MGDA
from tests.problems import Given, names
from tests.reference.mgda import minimum_norm_point, minimum_norm_weights, normalized, optimality_gap


def weights_of(rows: np.ndarray, losses: np.ndarray | None = None, **settings) -> np.ndarray:
    values = None if losses is None else torch.from_numpy(losses)
    return MGDA(**settings)(LossGradients.of(torch.from_numpy(rows), values)).numpy()


def random_rows(kind: str, count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng([count, seed])
    width = {"wide": 30, "narrow": 3, "line": 1}.get(kind, 8)
    rows = generator.normal(size=(count, width))
    if kind == "alike":
        rows = rows + 3.0
    if kind == "lengths":
        rows = rows * np.exp(generator.normal(size=(count, 1)) * 3)
    if kind == "rank two":
        rows = generator.normal(size=(count, 2)) @ generator.normal(size=(2, 8))
    if kind == "repeated" and count > 1:
        rows[1] = rows[0]
    if kind == "zero row" and count > 1:
        rows[-1] = 0.0
    if kind == "positive":
        rows = np.abs(rows)
    return rows


KINDS = ["wide", "narrow", "line", "alike", "lengths", "rank two", "repeated", "zero row", "positive"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", range(1, 8))
def test_the_point_is_the_oracles(count: int, kind: str) -> None:
    for seed in range(6):
        rows = random_rows(kind, count, seed)
        weights = weights_of(rows)
        assert weights.min() >= 0.0
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        point, expected = weights @ rows, minimum_norm_point(rows)
        scale = np.linalg.norm(rows, axis=1).max()
        assert np.linalg.norm(point) <= np.linalg.norm(expected) + 1e-7 * scale
        np.testing.assert_allclose(point, expected, atol=2e-6 * scale)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [3, 10, 40])
def test_the_optimality_condition(count: int, kind: str, scale: float) -> None:
    """min_i <g_i, d> >= ||d||^2 - 1e-6 max ||g||^2."""
    for seed in range(3):
        rows = random_rows(kind, count, 100 + seed) * scale
        weights = weights_of(rows)
        assert weights.min() >= 0.0
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert optimality_gap(rows, weights @ rows) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimality_condition_for_two_hundred_losses(kind: str) -> None:
    rows = random_rows(kind, 200, 5)
    assert optimality_gap(rows, weights_of(rows) @ rows) <= 1e-6


@pytest.mark.parametrize("kind", ["one per mille", "one dominates", "rates"])
@pytest.mark.parametrize("count", [2, 5, 40])
def test_rows_of_very_different_scale(count: int, kind: str) -> None:
    """Scales from 1e-6 to 1e6 within one problem; the condition is relative to the longest row."""
    for seed in range(5):
        generator = np.random.default_rng([count, seed])
        rows = generator.normal(size=(count, 12))
        if kind == "one per mille":
            rows[0] *= 1e-3
        elif kind == "one dominates":
            rows[0] *= 1e6
        else:
            rows *= np.logspace(-6, 6, count)[:, None]
        assert optimality_gap(rows, weights_of(rows) @ rows) <= 1e-6


def test_known_points() -> None:
    np.testing.assert_allclose(weights_of(np.array([[1.0, 0.0], [0.0, 1.0]])), [0.5, 0.5])
    np.testing.assert_allclose(weights_of(np.array([[2.0, 0.0], [0.0, 1.0]])), [0.2, 0.8])
    np.testing.assert_allclose(weights_of(np.array([[1.0, 0.0], [3.0, 0.1]])), [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(weights_of(np.array([[1.0], [-3.0]])), [0.75, 0.25])
    np.testing.assert_allclose(weights_of(np.array([[0.0, 0.0], [3.0, 0.1]])), [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(
        weights_of(np.array([[1.0, 1.0], [1.0, -1.0], [5.0, 0.0]])), [0.5, 0.5, 0.0], atol=1e-12
    )


@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_normalisations_of_sener_and_koltun(count: int, normalize: str) -> None:
    for seed in range(5):
        rows = random_rows("lengths", count, seed)
        losses = np.exp(np.random.default_rng(seed).normal(size=count))
        scaled = normalized(rows, losses, normalize)
        weights = weights_of(rows, losses, normalize=normalize)
        np.testing.assert_allclose(weights, minimum_norm_weights(scaled), atol=1e-6)
        assert optimality_gap(scaled, weights @ scaled) <= 1e-6


@pytest.mark.parametrize("normalize", ["l2", "loss+"])
def test_a_zero_row_has_no_norm_to_divide_by(normalize: str) -> None:
    weights = weights_of(np.array([[1.0, 2.0], [0.0, 0.0]]), np.ones(2), normalize=normalize)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights, [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("normalize", ["loss", "loss+"])
def test_a_loss_that_is_not_positive_is_named(normalize: str) -> None:
    given = Given(torch.eye(2, dtype=torch.float64), offset=0.0)
    with pytest.raises(ValueError, match=r"MGDA: .*loss 'loss_0' is 0"):
        given.at_shared_params(MultiLoss(weighting=MGDA(normalize=normalize)))
    assert given.point.grad is None


def test_an_unknown_normalisation_is_refused_when_built() -> None:
    text = "normalize must be one of None, 'l2', 'loss', 'loss\\+'; received 'l1'"
    with pytest.raises(ValueError, match=text):
        MGDA(normalize="l1")


@pytest.mark.parametrize("place", ["at_features", "at_shared_params"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_merged_gradient_hurts_no_loss(dtype: torch.dtype, place: str) -> None:
    for seed in range(5):
        rows = torch.from_numpy(random_rows("wide", 6, seed)).to(dtype).view(6, 5, 6)
        if place == "at_shared_params":
            rows = rows.view(6, 30)
        merged, result = getattr(Given(rows), place)(MultiLoss(weighting=MGDA()))
        flat = rows.double().reshape(6, -1).numpy()
        np.testing.assert_allclose(
            merged.double().reshape(-1).numpy(), minimum_norm_point(flat), atol=1e-5 * np.abs(flat).max()
        )
        assert sum(float(result.weights[name]) for name in names(6)) == pytest.approx(1.0)
        assert (flat @ merged.double().reshape(-1).numpy()).min() >= -1e-6


def test_orthogonal_gradients() -> None:
    """Weights are proportional to 1 / ||g||^2."""
    inverse = np.array([1.0, 1 / 4, 1 / 16])
    np.testing.assert_allclose(weights_of(np.diag([1.0, 2.0, 4.0])), inverse / inverse.sum(), rtol=1e-9)
