"""InitialLoss: 1 / L(0), where L(0) is the first value of a loss that is seen."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.weighting import InitialLoss
from tests.problems import names
from tests.reference.initial_loss import InitialLossOracle

SEEN = [[2.0, None, 0.5], [1.0, 4.0, 0.25], [0.5, 3.0, None], [0.1, 2.0, 0.125]]


def test_weights_follow_the_oracle_with_losses_that_come_late() -> None:
    multi, oracle = MultiLoss(weighting=InitialLoss()), InitialLossOracle(3)
    for values in SEEN:
        point = torch.ones(1, dtype=torch.float64, requires_grad=True)
        losses = {
            name: None if value is None else point.sum() * value
            for name, value in zip(names(3), values, strict=True)
        }
        result = multi.backward(losses, shared_params=[point])
        for name, weight in zip(names(3), oracle.step(values), strict=True):
            if weight is None:
                assert name not in result.weights
            else:
                assert float(result.weights[name]) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_initial_loss_that_is_not_positive_is_named(value: float) -> None:
    point = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"InitialLoss: the initial value of loss 'b' is -?[01]"):
        MultiLoss(weighting=InitialLoss()).backward({"a": point.sum(), "b": point.sum() * value})
    assert point.grad is None
