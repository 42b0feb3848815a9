"""Uncertainty weighting against autograd on Kendall's own objective."""

import numpy as np
import pytest
import torch

from manyloss import MultiLoss
from manyloss.weighting import Uncertainty
from tests.problems import Given, names
from tests.reference.uncertainty import UncertaintyOracle

KINDS = {
    "regression": (["regression"] * 3, "regression"),
    "classification": (["classification"] * 3, "classification"),
    "by name": (
        ["classification", "regression", "regression"],
        {"loss_0": "classification", "loss_1": "regression", "loss_2": "regression"},
    ),
    "by position": (["regression", "classification", "regression"],) * 2,
}


def values(step: int) -> np.ndarray:
    return np.array([0.3 + 0.05 * step, 2.0 / (1 + step), 7.0 + np.sin(step)])


def run(multi: MultiLoss, steps: int, start: int = 0) -> list[list[float]]:
    rows = torch.eye(3, dtype=torch.float64)
    used = []
    for step in range(start, start + steps):
        point = torch.ones(3, dtype=torch.float64, requires_grad=True)
        losses = {
            name: (row * point).sum() - 1.0 + float(value)
            for name, row, value in zip(names(3), rows, values(step), strict=True)
        }
        result = multi.backward(losses, shared_params=[point])
        used.append([float(result.weights[name]) for name in names(3)])
        np.testing.assert_allclose(point.grad.numpy(), used[-1])
    return used


@pytest.mark.parametrize("normalize", [False, True, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_the_oracle(kind: str, normalize: bool | float) -> None:
    expected_kinds, given = KINDS[kind]
    total = None if normalize is False else 3.0 if normalize is True else normalize
    oracle = UncertaintyOracle(expected_kinds, lr=0.025, normalize=total)
    expected = [oracle.step(values(step)) for step in range(40)]
    multi = MultiLoss(weighting=Uncertainty(kinds=given, normalize=normalize))
    np.testing.assert_allclose(run(multi, 40), expected, rtol=1e-9)


def test_a_constant_loss_is_weighted_by_its_optimum() -> None:
    """d/dv = 0 where the weight times the loss is 1/2, for both kinds."""
    point = torch.ones(2, dtype=torch.float64, requires_grad=True)
    multi = MultiLoss(weighting=Uncertainty(kinds=["regression", "classification"], lr=0.05))
    for _ in range(800):
        losses = {"a": 0.0 * point.sum() + 4.0, "b": 0.0 * point.sum() + 0.2}
        result = multi.backward(losses, shared_params=[point])
    assert float(result.weights["a"]) == pytest.approx(0.5 / 4.0, rel=1e-2)
    assert float(result.weights["b"]) == pytest.approx(0.5 / 0.2, rel=1e-2)


def test_another_optimiser_can_learn_the_log_variances() -> None:
    multi = MultiLoss(weighting=Uncertainty(optimizer=lambda params: torch.optim.SGD(params, lr=0.1)))
    used = run(multi, 2)
    moved = -0.1 * (0.5 - 0.5 * values(0))
    np.testing.assert_allclose(used[1], 0.5 * np.exp(-moved), rtol=1e-12)


def test_the_learning_rate_follows_the_main_schedule() -> None:
    still = MultiLoss(weighting=Uncertainty())
    still.set_progress(1.0)
    used = run(still, 3)
    assert used[0] == used[2]


def test_an_absent_loss_keeps_its_log_variance() -> None:
    """Four steps, four without the loss, one more: its weight is that of an oracle's fifth step."""
    given = Given(torch.eye(3, dtype=torch.float64), offset=5.0)
    multi = MultiLoss(weighting=Uncertainty())
    for _ in range(4):
        given.at_shared_params(multi)
    for _ in range(4):
        losses = given.losses(given.point)
        losses["loss_1"] = None
        without = multi.backward(losses, shared_params=[given.point])
        assert "loss_1" not in without.weights
    _, result = given.at_shared_params(multi)
    oracle = UncertaintyOracle(["regression"])
    expected = [float(oracle.step([5.0])[0]) for _ in range(9)]
    assert float(result.weights["loss_1"]) == pytest.approx(expected[4], rel=1e-9)
    assert float(result.weights["loss_0"]) == pytest.approx(expected[8], rel=1e-9)


def test_an_unknown_kind_is_refused_when_built() -> None:
    with pytest.raises(
        ValueError, match="kinds must be one of 'regression', 'classification'; received 'ranking'"
    ):
        Uncertainty(kinds="ranking")
