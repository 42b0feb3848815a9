"""examples/burgers.py at a small size: L-BFGS on frozen weights ends where plain L-BFGS does."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from manyloss import MultiLoss, multi_loss

FILE = Path(__file__).parents[1] / "examples" / "burgers.py"


@pytest.fixture(scope="module")
def burgers():
    spec = importlib.util.spec_from_file_location("burgers", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(burgers):
    return burgers.Burgers(seed=0, inside=150, edge=30, width=10, depth=2)


def by_hand(problem, adam: int, lbfgs: int) -> float:
    """What one writes without manyloss."""
    net = problem.net
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def closure():
        net.zero_grad()
        total = sum(problem.losses().values())
        total.backward()
        return total

    for _ in range(adam):
        optimizer.step(closure)
    torch.optim.LBFGS(
        net.parameters(), max_iter=lbfgs, history_size=50, tolerance_grad=0, tolerance_change=0,
        line_search_fn="strong_wolfe",
    ).step(closure)  # fmt: skip
    return problem.error()


def test_the_exact_solution_solves_the_equation(burgers) -> None:
    x, t, h = np.linspace(-0.9, 0.9, 7), np.full(7, 0.3), 1e-4
    u = burgers.exact(x, t)
    u_t = (burgers.exact(x, t + h) - burgers.exact(x, t - h)) / (2 * h)
    right, left = burgers.exact(x + h, t), burgers.exact(x - h, t)
    residual = u_t + u * (right - left) / (2 * h) - burgers.NU * (right - 2 * u + left) / h**2
    assert np.abs(residual).max() < 1e-5
    np.testing.assert_allclose(burgers.exact(x, 0 * x + 1e-6), -np.sin(np.pi * x), atol=1e-4)


def test_with_equal_weights_it_is_plain_lbfgs(burgers) -> None:
    error = burgers.train(MultiLoss(), small(burgers), adam=20, lbfgs=15)
    assert error == pytest.approx(by_hand(small(burgers), 20, 15), rel=1e-6)


@pytest.mark.slow
def test_frozen_weights_of_a_method_come_as_near(burgers) -> None:
    plain = by_hand(small(burgers), 100, 200)
    method = burgers.train(multi_loss("relobralo", seed=0), small(burgers), adam=100, lbfgs=200)
    assert method <= 1.3 * plain < 0.2
