"""GradVac against Algorithm 1 on vectors, for every order that may be drawn."""

import numpy as np
import pytest
import torch

from manyloss.gradients import LossGradients
from manyloss.weighting import GradVac
from tests.reference.gradvac import all_orders, gradvac
from tests.reference.pcgrad import all_pcgrad
from tests.weighting.rows import rows_of, step_of


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.5])
def test_two_losses_follow_the_oracle_over_many_steps(beta: float) -> None:
    method, goals, turned = GradVac(beta, seed=0), np.zeros((2, 2)), False
    for step in range(40):
        rows = rows_of("alike" if step % 3 else "conflict", 2, step)
        expected, goals = gradvac(rows, goals, [(1,), (0,)], beta)
        np.testing.assert_allclose(step_of(method, rows), expected, rtol=1e-9)
        np.testing.assert_allclose(method.state.goals.numpy(), goals, atol=1e-12)
        turned = turned or bool(goals.max() > 0.05)
    assert turned == (beta > 0.0)


@pytest.mark.parametrize("count", [3, 4])
def test_a_step_is_that_of_one_of_the_orders(count: int) -> None:
    generator = np.random.default_rng(count)
    goals = generator.uniform(-0.2, 0.9, size=(count, count))
    for seed in range(4):
        rows = rows_of("wide", count, seed)
        method = GradVac(0.1, seed=seed)
        method.start([str(i) for i in range(count)])
        method.state.goals[:] = torch.from_numpy(goals)
        found = step_of(method, rows)
        outcomes = [gradvac(rows, goals, orders, 0.1) for orders in all_orders(count)]
        distances = [np.abs(found - merged).max() for merged, _ in outcomes]
        best = int(np.argmin(distances))
        assert distances[best] <= 1e-9
        ours = method.state.goals.numpy()
        off = ~np.eye(count, dtype=bool)
        same = [
            np.abs(ours - new)[off].max()
            for d, (_, new) in zip(distances, outcomes, strict=True)
            if d <= 1e-9
        ]
        assert min(same) <= 1e-9


def test_at_first_it_is_pcgrad() -> None:
    rows = rows_of("conflict", 3, 0)
    outcomes = all_pcgrad(rows)
    assert min(np.abs(step_of(GradVac(seed=1), rows) - outcome).max() for outcome in outcomes) <= 1e-9


def test_an_absent_loss_keeps_its_goals() -> None:
    method = GradVac(0.5, seed=0)
    method.start(["a", "b", "c"])
    rows = torch.from_numpy(rows_of("alike", 2, 0))
    method(LossGradients(["a", "c"], torch.ones(2).double(), [rows]))
    goals = method.state.goals
    assert float(goals[0, 2]) != 0.0
    assert float(goals[2, 0]) != 0.0
    assert not bool(goals[1].any())
    assert not bool(goals[:, 1].any())


def test_a_skipped_step_leaves_the_goals() -> None:
    method = GradVac(0.5, seed=0)
    method.start(["0", "1"])
    method.forward(LossGradients.of(torch.from_numpy(rows_of("alike", 2, 0))))
    method.discard()
    method.commit()
    assert not bool(method.state.goals.any())
