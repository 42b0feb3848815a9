"""PCGrad and its iterative variant: outcomes are the oracle's, for every order, all equally often."""

import numpy as np
import pytest
import torch

from manyloss import MultiLoss
from manyloss.gradients import LossGradients
from manyloss.weighting import IterativePCGrad, PCGrad
from tests.problems import Given
from tests.reference.pcgrad import all_iterative_pcgrad, all_pcgrad

ORACLES = {PCGrad: all_pcgrad, IterativePCGrad: all_iterative_pcgrad}
both = pytest.mark.parametrize("method", [PCGrad, IterativePCGrad])


def nearest(point: np.ndarray, candidates: list[np.ndarray]) -> tuple[int, float]:
    distances = [float(np.abs(point - candidate).max()) for candidate in candidates]
    return int(np.argmin(distances)), min(distances)


def conflicting(count: int, seed: int, width: int = 4) -> np.ndarray:
    generator = np.random.default_rng([count, seed])
    return generator.normal(size=(count, width)) * np.exp(generator.normal(size=(count, 1)))


@both
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 2, 6])
def test_every_outcome_is_one_of_the_oracles(method, count: int, width: int) -> None:
    for seed in range(15):
        rows = conflicting(count, seed, width)
        weights = method(seed=seed)(LossGradients.of(torch.from_numpy(rows))).numpy()
        _, distance = nearest(weights @ rows, ORACLES[method](rows))
        assert distance <= 1e-9 * np.abs(rows).max()


def test_four_losses_for_pcgrad() -> None:
    rows = conflicting(4, 5)
    outcomes = all_pcgrad(rows)
    method = PCGrad(seed=0)
    for _ in range(20):
        weights = method(LossGradients.of(torch.from_numpy(rows))).numpy()
        assert nearest(weights @ rows, outcomes)[1] <= 1e-9
        assert weights.min() >= 1.0 - 1e-12


@both
def test_all_orders_are_equally_likely(method) -> None:
    """Chi-square of the outcomes over 2400 draws, for rows where the orders matter."""
    rows = np.array([[1.0, 0.2, 0.0], [-0.8, 1.0, 0.3], [-0.5, -0.9, 1.0]])
    outcomes = ORACLES[method](rows)
    distinct = np.unique(np.round(outcomes, 9), axis=0)
    expected = np.zeros(len(distinct))
    for outcome in outcomes:
        expected[nearest(outcome, list(distinct))[0]] += 2400 / len(outcomes)
    seen = np.zeros(len(distinct))
    drawn, gradients = method(seed=1), LossGradients.of(torch.from_numpy(rows))
    for _ in range(2400):
        index, distance = nearest(drawn(gradients).numpy() @ rows, list(distinct))
        assert distance <= 1e-8
        seen[index] += 1
    assert len(distinct) > 3
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    freedom = len(distinct) - 1
    assert chi_square <= freedom + 5 * np.sqrt(2 * freedom)


@both
def test_two_losses_without_conflict_are_summed(method) -> None:
    rows = np.array([[1.0, 0.5], [0.2, 1.0]])
    weights = method(seed=0)(LossGradients.of(torch.from_numpy(rows))).numpy()
    np.testing.assert_array_equal(weights, [1.0, 1.0])


def test_two_losses_in_conflict_by_hand() -> None:
    """g_1 - <g_1, g_2> / ||g_2||^2 g_2, and the other way round."""
    rows = np.array([[1.0, 0.0], [-1.0, 1.0]])
    weights = PCGrad(seed=0)(LossGradients.of(torch.from_numpy(rows))).numpy()
    np.testing.assert_allclose(weights @ rows, np.array([0.5, 0.5]) + np.array([0.0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(weights, [2.0, 1.5], rtol=1e-12)


def test_projections_use_the_original_gradients() -> None:
    """Wild bug: later rows meet rows that are projected already. Then 0.5 would be left of the first row."""
    rows = np.array([[1.0], [-2.0]])
    assert abs(float(PCGrad(seed=0)(LossGradients.of(torch.from_numpy(rows))).numpy() @ rows[:, 0])) <= 1e-12
    found = {
        round(
            float(IterativePCGrad(seed=s)(LossGradients.of(torch.from_numpy(rows))).numpy() @ rows[:, 0]), 9
        )
        for s in range(20)
    }
    assert found == {1.0, -2.0}  # whoever comes second meets a zero and stays whole


@both
def test_a_zero_row_is_skipped(method) -> None:
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    without = ORACLES[method](rows[[0, 2]])
    weights = method(seed=0)(LossGradients.of(torch.from_numpy(rows))).numpy()
    assert np.isfinite(weights).all()
    assert nearest(weights @ rows, without)[1] <= 1e-12


@both
def test_orthogonal_gradients_are_left_alone(method) -> None:
    """Appendix A.5: such as those of losses on separate parts of the batch, which a step refuses to weigh."""
    rows = torch.diag(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    assert method(seed=0)(LossGradients.of(rows)).tolist() == [1.0, 1.0, 1.0]


@both
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)])
def test_at_features_of_any_shape(method, shape) -> None:
    rows = torch.randn(3, *shape, dtype=torch.float64)
    merged, _ = Given(rows).at_features(MultiLoss(weighting=method(seed=0)))
    flat = rows.reshape(3, -1).numpy()
    assert nearest(merged.reshape(-1).numpy(), ORACLES[method](flat))[1] <= 1e-9


def test_forty_losses_conflict_less_than_in_their_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 60, generator=generator, dtype=torch.float64)
    merged, result = Given(rows).at_shared_params(MultiLoss(weighting=PCGrad(seed=0)))
    assert float((rows @ merged).min()) >= float((rows @ rows.sum(0)).min())
    assert min(float(weight) for weight in result.weights.values()) >= 1.0 - 1e-12


@both
def test_forty_losses_in_three_dimensions_are_finite(method) -> None:
    rows = torch.randn(40, 3, dtype=torch.float32)
    merged, _ = Given(rows).at_shared_params(MultiLoss(weighting=method(seed=0)))
    assert bool(torch.isfinite(merged).all())
