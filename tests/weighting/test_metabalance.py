"""MetaBalance against Algorithm 1 on vectors."""

import numpy as np
import pytest
import torch

from manyloss import MultiLoss
from manyloss.gradients import LossGradients
from manyloss.weighting import MetaBalance
from manyloss.weighting.metabalance import STRATEGIES
from tests.problems import Given
from tests.reference.by_norms import MetaBalance as Oracle
from tests.weighting.rows import rows_of, step_of


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("relax", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("target", [0, 2])
def test_steps_follow_the_oracle(target: int, relax: float, strategy: str) -> None:
    method = MetaBalance(str(target), relax=relax, beta=0.8, strategy=strategy)
    oracle = Oracle(target, relax, 0.8, strategy)
    for step in range(10):
        rows = rows_of("lengths", 4, step)
        np.testing.assert_allclose(step_of(method, rows), oracle.merge(rows), rtol=1e-10)


def test_a_loss_that_comes_later_is_not_taken_for_a_small_one() -> None:
    method = MetaBalance(relax=1.0, beta=0.9)
    method.start(["a", "b"])
    rows = torch.eye(2, dtype=torch.float64)
    for _ in range(20):
        method(LossGradients(["a"], torch.ones(1).double(), [rows[:1]]))
    weights = method(LossGradients(["a", "b"], torch.ones(2).double(), [rows]))
    assert weights.tolist() == pytest.approx([1.0, 1.0])


def test_with_a_target_by_name_the_order_of_the_losses_does_not_matter() -> None:
    rows = rows_of("lengths", 3, 0)
    np.testing.assert_allclose(
        step_of(MetaBalance("0"), rows), step_of(MetaBalance("2"), rows[[1, 2, 0]]), rtol=1e-12
    )


def test_nothing_but_norms_is_measured() -> None:
    rows = torch.randn(3, 4, 5, dtype=torch.float64)
    _, result = Given(rows).at_features(MultiLoss(MetaBalance()))
    assert result.norms is not None
    assert result.gramian is None


def test_a_target_that_is_no_loss_is_named() -> None:
    given = Given(torch.randn(2, 4, 5, dtype=torch.float64))
    with pytest.raises(
        ValueError, match="target of MetaBalance must be one of 'loss_0', 'loss_1'; received 'x'"
    ):
        given.at_features(MultiLoss(MetaBalance("x")))
    assert given.point.grad is None
