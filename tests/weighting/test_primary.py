"""Primary against A-GEM's projection, written on the gradients."""

import numpy as np
import pytest
import torch

from manyloss import MultiLoss
from manyloss.gradients import LossGradients
from manyloss.weighting import Primary
from tests.problems import Given
from tests.reference.primary import primary


def merged(rows: np.ndarray, loss: str | int) -> tuple[np.ndarray, torch.Tensor]:
    gradients = LossGradients.of(torch.from_numpy(rows))
    weights = Primary(loss)(gradients)
    return gradients.combine(weights)[0].numpy(), weights


@pytest.mark.parametrize("count", range(1, 7))
def test_the_update_is_the_oracles(count: int) -> None:
    for seed in range(10):
        rows = np.random.default_rng([count, seed]).normal(size=(count, 5))
        p = seed % count
        np.testing.assert_allclose(merged(rows, p)[0], primary(rows, p), atol=1e-12)
        np.testing.assert_allclose(merged(rows, str(p))[0], merged(rows, p - count)[0], atol=1e-12)


def test_auxiliary_losses_cannot_raise_the_primary_one() -> None:
    """<d, g_p> >= ||g_p||^2, however large the others are; heads and weights of the others stay plain."""
    for seed in range(20):
        rows = np.random.default_rng(seed).normal(size=(4, 6))
        rows[1:] *= 100.0
        update, weights = merged(rows, 0)
        assert update @ rows[0] >= rows[0] @ rows[0] * (1 - 1e-9)
        assert weights[1:].tolist() == [1.0, 1.0, 1.0]
        assert float(weights[0]) >= 1.0


def test_without_a_conflict_it_is_the_sum() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 2.0], [0.5, -3.0]])  # the last two conflict with each other
    np.testing.assert_allclose(merged(rows, 0)[0], rows.sum(0))


def test_a_primary_gradient_of_zero_changes_nothing() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert merged(rows, 0)[1].tolist() == [1.0, 1.0]


def test_a_step_without_the_primary_loss_is_the_sum() -> None:
    multi = MultiLoss(Primary("loss_0"))
    problem = Given(torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64))
    grad, result = problem.at_features(multi)
    assert [float(weight) for weight in result.weights.values()] == [3.0, 1.0, 1.0]
    torch.testing.assert_close(grad, torch.tensor([1.0, 0.0], dtype=torch.float64))
    z = problem.point * 1.0
    losses = {**problem.losses(z), "loss_0": None}
    assert [float(weight) for weight in multi.backward(losses, features=z).weights.values()] == [1.0, 1.0]


@pytest.mark.parametrize("loss", ["lm", 3, -4])
def test_a_loss_that_is_not_there(loss: str | int) -> None:
    problem = Given(torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"Primary: loss=.* is none of the 3 losses 'loss_0', 'loss_1', '"):
        problem.at_features(MultiLoss(Primary(loss)))
    with pytest.raises(TypeError, match="loss must be a name or a position, got None"):
        Primary(None)
