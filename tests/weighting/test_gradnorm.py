"""GradNorm against L_grad differentiated by autograd, its fixed points, and mistakes known from the wild."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.weighting import GradNorm, Static
from tests.problems import Network, assert_same, names
from tests.properties.methods import flat
from tests.reference.gradnorm import GradNormOracle, gradient_loss_slope


class Fixed:
    """Losses of chosen value and chosen gradient norm at one parameter."""

    def __init__(self, multi: MultiLoss):
        self.multi = multi
        self.point = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def step(self, values, norms, present=None) -> list[float | None]:
        losses: dict[str, Tensor | None] = {}
        for i, (value, norm) in enumerate(zip(values, norms, strict=True)):
            slope = torch.tensor([math.cos(i), math.sin(i)], dtype=torch.float64) * float(norm)
            linear = (slope * self.point).sum()
            losses[names(9)[i]] = linear - linear.detach() + float(value)
            if present is not None and not present[i]:
                losses[names(9)[i]] = None
        result = self.multi.backward(losses, shared_params=[self.point])
        return [float(result.weights[name]) if name in result.weights else None for name in losses]


def trajectory(count: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([count, step])
    values = (0.2 + generator.random(count)) * np.exp(-0.02 * step * (1 + np.arange(count)))
    norms = np.exp(generator.normal(size=count)) * (1.0 + 3.0 * np.arange(count))
    return values, norms


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("initial", ["first", "given"])
def test_weights_follow_the_oracle(count: int, alpha: float, initial: str) -> None:
    theoretical = np.log(2.0 + np.arange(count))
    given = "first" if initial == "first" else theoretical.tolist()
    oracle = GradNormOracle(count, alpha, initial=None if initial == "first" else theoretical)
    model = Fixed(MultiLoss(weighting=GradNorm(alpha=alpha, initial=given)))
    for step in range(60):
        values, norms = trajectory(count, step)
        np.testing.assert_allclose(model.step(values, norms), oracle.step(values, norms), rtol=1e-8)


def test_weights_follow_the_oracle_at_a_large_rate_where_the_floor_acts() -> None:
    oracle = GradNormOracle(3, 1.5, lr=0.7)
    model = Fixed(MultiLoss(weighting=GradNorm(alpha=1.5, lr=0.7)))
    smallest = 1.0
    for step in range(80):
        values, norms = trajectory(3, step)
        weights = model.step(values, norms)
        np.testing.assert_allclose(weights, oracle.step(values, norms), rtol=1e-7)
        smallest = min(smallest, *weights)
        assert sum(weights) == pytest.approx(3.0)
    assert 0.0 < smallest < 1e-3


def test_norms_are_those_of_the_given_layer_and_not_of_the_encoder() -> None:
    network = Network(3)
    oracle = GradNormOracle(3, 1.5)
    multi = MultiLoss(weighting=GradNorm(alpha=1.5))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(15):
        optimizer.zero_grad()
        features, losses = network.forward(step)
        norms = []
        for loss in losses.values():
            parts = torch.autograd.grad(loss, network.last_layer(), retain_graph=True)
            norms.append(float(torch.cat([part.reshape(-1) for part in parts]).norm()))
        expected = oracle.step(np.array([float(loss.detach()) for loss in losses.values()]), np.array(norms))
        result = multi.backward(losses, features=features[0], shared_params=network.last_layer())
        assert [float(result.norms[name]) for name in losses] == pytest.approx(norms, rel=1e-9)
        assert [float(result.weights[name]) for name in losses] == pytest.approx(expected, rel=1e-8)
        optimizer.step()


def test_the_step_uses_the_weights_before_they_learn_and_heads_see_them() -> None:
    """Wild bugs: heads left unweighted; w(t+1) used at t; second-order terms in the network's .grad."""
    network, twin = Network(3), Network(3)
    multi = MultiLoss(weighting=GradNorm(lr=0.3))
    assert_weights = []
    for step in range(4):
        network.zero_grad()
        twin.zero_grad()
        features, losses = network.forward(step)
        result = multi.backward(losses, features=features[0], shared_params=network.last_layer())
        weights = [float(result.weights[name]) for name in losses]
        assert_weights.append(weights)
        _, plain = twin.forward(step)
        sum(weight * loss for weight, loss in zip(weights, plain.values(), strict=True)).backward()
        assert_same(network.gradients(), twin.gradients(), rtol=1e-12, atol=1e-15)
    assert assert_weights[0] == [1.0, 1.0, 1.0]
    assert assert_weights[1] != assert_weights[0]


def test_the_closed_form_is_the_slope_of_the_gradient_loss() -> None:
    """One SGD step of size s moves w by -s dL_grad/dw; L_grad by central differences."""
    values, norms = np.array([0.5, 1.0, 2.0]), np.array([1.0, 5.0, 0.3])
    initial = np.array([1.0, 1.5, 1.0])
    weighting = GradNorm(
        alpha=0.7,
        initial=dict(zip(names(3), initial, strict=True)),
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-3),
    )
    model = Fixed(MultiLoss(weighting=weighting))
    model.step(values, norms)
    moved = np.array(model.step(values, norms))
    expected = 1.0 - 1e-3 * gradient_loss_slope(np.ones(3), values, initial, norms, 0.7)
    np.testing.assert_allclose(moved, expected * 3.0 / expected.sum(), rtol=1e-7)


# ---------------------------------------------------------------- fixed points and directions


@pytest.mark.parametrize("norms", [[1.0, 10.0], [3.0, 0.2, 1.0], [1.0, 1.0, 1.0, 4.0]])
def test_alpha_zero_equalises_the_gradient_norms(norms) -> None:
    """Section 3.2: alpha = 0 pins the norms to be equal, so w_i is proportional to 1 / n_i."""
    norms = np.array(norms)
    model = Fixed(
        MultiLoss(weighting=GradNorm(alpha=0.0, optimizer=lambda params: torch.optim.Adam(params, lr=1e-2)))
    )
    for _ in range(350):
        weights = model.step(np.ones(len(norms)), norms)
    expected = len(norms) / norms / (1.0 / norms).sum()
    np.testing.assert_allclose(weights, expected, rtol=0.02, atol=0.015)


def test_a_fixed_point_stays() -> None:
    """Equal norms and equal rates: sign(0) = 0, no weight moves, not even by Adam."""
    model = Fixed(MultiLoss(weighting=GradNorm(alpha=1.5)))
    for step in range(20):
        weights = model.step([1.0 / (1 + step)] * 3, [2.0] * 3)
    assert weights == pytest.approx([1.0, 1.0, 1.0], rel=1e-12)


def test_a_slow_loss_gains_weight() -> None:
    """r is the INVERSE rate and its exponent is +alpha (wild bug: exponent flipped)."""
    model = Fixed(MultiLoss(weighting=GradNorm(alpha=1.5)))
    for step in range(30):
        slow, fast = model.step([1.0, 1.0 * 0.9**step], [1.0, 1.0])
    assert slow > 1.05
    assert fast < 0.95


def test_a_loss_with_a_large_gradient_loses_weight() -> None:
    model = Fixed(MultiLoss(weighting=GradNorm(alpha=0.12)))
    for _ in range(10):
        small, large = model.step([1.0, 1.0], [1.0, 100.0])
    assert small > 1.0 > large


def test_weights_keep_moving_and_are_not_a_softmax() -> None:
    """Wild bugs: weights orphaned from their optimiser; softmax re-applied each step."""
    model = Fixed(MultiLoss(weighting=GradNorm(alpha=0.0, lr=0.01)))
    seen = [model.step([1.0, 1.0], [1.0, 50.0])[1] for _ in range(60)]
    assert all(later < earlier for earlier, later in pairwise(seen))
    assert seen[-1] < 0.5


def test_the_first_loss_is_remembered_and_never_again_set() -> None:
    """Wild bug: L(0) never or wrongly set. Halving one loss after the first step makes it the fast one."""
    weighting = GradNorm(alpha=1.0, optimizer=lambda params: torch.optim.SGD(params, lr=0.01))
    model = Fixed(MultiLoss(weighting=weighting))
    model.step([4.0, 1.0], [1.0, 1.0])  # ratios 1 and 1: nothing moves
    assert model.step([2.0, 1.0], [1.0, 1.0]) == [1.0, 1.0]
    fast, slow = model.step([2.0, 1.0], [1.0, 1.0])
    assert fast < 1.0 < slow


@pytest.mark.parametrize(
    "given", [{"loss_0": math.log(10), "loss_1": math.log(2)}, [math.log(10), math.log(2)]]
)
def test_theoretical_initial_losses_count_from_the_first_step(given) -> None:
    weighting = GradNorm(alpha=1.0, initial=given, optimizer=lambda params: torch.optim.SGD(params, lr=0.01))
    model = Fixed(MultiLoss(weighting=weighting))
    model.step([math.log(10), 0.5 * math.log(2)], [1.0, 1.0])
    slow, fast = model.step([1.0, 1.0], [1.0, 1.0])
    assert fast < 1.0 < slow


# ---------------------------------------------------------------- the rest of the interface


def test_time_average_is_the_mean_of_the_weights_used() -> None:
    weighting = GradNorm(lr=0.1)
    model = Fixed(MultiLoss(weighting=weighting))
    used = []
    for step in range(12):
        used.append(model.step(*trajectory(3, step)))
    static = weighting.time_average()
    assert isinstance(static, Static)
    fixed = Fixed(MultiLoss(weighting=static)).step(*trajectory(3, 0))
    np.testing.assert_allclose(fixed, np.mean(used, axis=0), rtol=1e-12)


def test_a_time_average_before_the_first_step_is_refused() -> None:
    with pytest.raises((RuntimeError, ValueError), match="time_average"):
        GradNorm().time_average()


def test_an_absent_loss_keeps_its_weight_and_leaves_the_mean() -> None:
    weighting = GradNorm(alpha=0.5, optimizer=lambda params: torch.optim.SGD(params, lr=0.02))
    model = Fixed(MultiLoss(weighting=weighting))
    first = model.step([1.0, 1.0, 1.0], [1.0, 2.0, 6.0])
    second = model.step([1.0, 0.5, 0.9], [1.0, 2.0, 6.0], present=[True, False, True])
    assert second[1] is None
    third = model.step([1.0, 1.0, 1.0], [1.0, 2.0, 6.0])

    # by hand: the second step moves only 0 and 2, against the mean over 0 and 2
    weights = np.array(first)
    ratios = np.ones(3)

    def moved(weights, ratios, norms, active):
        w, n, r = weights[active], norms[active], ratios[active] / ratios[active].mean()
        slopes = np.sign(w * n - (w * n).mean() * r**0.5) * n
        new = np.clip(w - 0.02 * slopes, 1e-4, None)
        weights = weights.copy()
        weights[active] = new * w.sum() / new.sum()
        return weights

    norms = np.array([1.0, 2.0, 6.0])
    weights = moved(weights, ratios, norms, [0, 1, 2])
    np.testing.assert_allclose([second[0], second[2]], weights[[0, 2]], rtol=1e-10)
    after = moved(weights, np.array([1.0, 0.5, 0.9]), norms, [0, 2])
    np.testing.assert_allclose(third, after, rtol=1e-10)
    assert third[1] == pytest.approx(weights[1], rel=1e-14)
    assert sum(third) == pytest.approx(3.0)


def test_a_stuck_loss_draws_ever_more_weight_unless_it_is_detected() -> None:
    """Section 7.2; `stuck` freezes its weight, the others share what is left."""

    def run(stuck):
        model = Fixed(MultiLoss(weighting=GradNorm(alpha=1.5, stuck=stuck)))
        history = [model.step([1.0, 0.97**step, 0.96**step], [1.0, 1.0, 1.0]) for step in range(120)]
        return np.array(history)

    free, detected = run(None), run((10, 1e-3))
    assert free[-1, 0] > 2.0
    assert detected[-1, 0] == detected[20, 0] < 1.5
    np.testing.assert_allclose(detected.sum(axis=1), 3.0)


@pytest.mark.parametrize("value", [0.0, -0.5])
@pytest.mark.parametrize("warm", [False, True])
def test_a_loss_that_is_not_positive_is_named(value: float, warm: bool) -> None:
    model = Fixed(MultiLoss(weighting=GradNorm()))
    if warm:
        model.step([1.0, 1.0], [1.0, 1.0])
    model.point.grad = None
    before = flat(model.multi.state_dict())
    with pytest.raises(ValueError, match=r"GradNorm: .*loss 'loss_1'.*above 0"):
        model.step([1.0, value], [1.0, 1.0])
    assert model.point.grad is None
    assert flat(model.multi.state_dict()) == before


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_initial_loss_that_is_not_positive_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"GradNorm: .*initial.*loss 'loss_1'"):
        Fixed(MultiLoss(weighting=GradNorm(initial=[1.0, value]))).step([1.0, 1.0], [1.0, 1.0])


def test_bad_settings_are_refused_when_built() -> None:
    with pytest.raises(ValueError, match="lr must be a finite number above 0"):
        GradNorm(lr=0.0)
    with pytest.raises(ValueError, match="initial must be one of 'first'"):
        GradNorm(initial="last")


def test_the_learning_rate_follows_the_main_schedule() -> None:
    """lr (1 - fraction)^0.9: at the end of the training nothing moves."""
    model = Fixed(MultiLoss(weighting=GradNorm()))
    model.multi.set_progress(1.0)
    assert [model.step([1.0, 1.0], [1.0, 9.0]) for _ in range(3)] == [[1.0, 1.0]] * 3
