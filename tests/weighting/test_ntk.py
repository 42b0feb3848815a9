"""NTK weights against one backward per point; the estimate within its error."""

import numpy as np
import pytest
import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.weighting import NTKWeights
from tests.reference.by_losses import ntk_traces


def problem() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    return net, residuals_of(net)


def residuals_of(net: nn.Module) -> dict[str, torch.Tensor]:
    inside, edge = torch.rand(12, 2).double().requires_grad_(), torch.rand(5, 2).double()
    u = net(inside)
    (slope,) = torch.autograd.grad(u.sum(), inside, create_graph=True)
    return {"equation": 10 * slope.sum(1, keepdim=True) + u, "edge": net(edge) - 1.0}


def step(multi: MultiLoss, residuals: dict[str, torch.Tensor]) -> dict[str, float]:
    losses = {name: each.square().mean() for name, each in residuals.items()}
    return {name: float(weight) for name, weight in multi.backward(losses).weights.items()}


def test_exact_weights_are_the_oracles_and_hold_until_measured_again() -> None:
    net, residuals = problem()
    multi = MultiLoss(NTKWeights(probes=None))
    found = multi.weighting.measure(residuals, net)
    traces = dict(zip(residuals, ntk_traces(list(residuals.values()), list(net.parameters())), strict=True))
    expected = {name: sum(traces.values()) / trace for name, trace in traces.items()}
    assert found == pytest.approx(expected, rel=1e-9)
    assert step(multi, residuals) == pytest.approx(expected, rel=1e-9)
    assert step(multi, residuals_of(net)) == pytest.approx(expected, rel=1e-9)
    assert found["edge"] > found["equation"]


def test_the_estimate_is_unbiased() -> None:
    net, residuals = problem()
    exact = NTKWeights(probes=None).measure(residuals, net)
    many = [NTKWeights(probes=4, seed=seed).measure(residuals, net) for seed in range(60)]
    ratios = np.array([each["edge"] / each["equation"] for each in many])
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(ratios.mean() - exact["edge"] / exact["equation"]) <= 6 * error


def test_before_a_measurement_weights_are_ones_and_they_are_saved() -> None:
    net, residuals = problem()
    multi = MultiLoss(NTKWeights(seed=0))
    assert step(multi, residuals) == {"equation": 1.0, "edge": 1.0}
    expected = multi.weighting.measure(residuals_of(net), net.parameters())
    fresh = MultiLoss(NTKWeights())
    fresh.load_state_dict(multi.state_dict())
    assert step(fresh, residuals_of(net)) == pytest.approx(expected)


def test_what_cannot_be_measured_is_named() -> None:
    net, residuals = problem()
    method = NTKWeights()
    with pytest.raises(ValueError, match="residual of loss 'edge' does not depend on the parameters"):
        method.measure({"edge": residuals["edge"].detach() * torch.ones((), requires_grad=True)}, net)
    step(MultiLoss(method), residuals)
    with pytest.raises(
        ValueError, match="residuals of NTKWeights must be one of 'equation', 'edge'; received 'x'"
    ):
        method.measure({"x": net(torch.rand(3, 2).double())}, net)
    with pytest.raises(ValueError, match="probes must be at least 1; received 0"):
        NTKWeights(probes=0)
