"""Hooks of the user act once, on the final gradient, whatever way gradients are read."""

import pytest
import torch
from torch import Tensor

from tests.problems import Network, assert_same
from tests.properties.methods import MethodCase, every_method

WAYS = ["features", "shared_params", "both"]


def place(network: Network, features: list[Tensor], way: str) -> dict:
    given: dict = {}
    if way != "shared_params":
        given["features"] = features[0]
    if way != "features":
        given["shared_params"] = network.encoder
    return given


def written(case: MethodCase, way: str, hook: bool) -> tuple[list[Tensor | None], list[Tensor]]:
    """Gradients of a first step; with the hook on a weight where they are read and one in front of it."""
    network, seen = Network(), []
    if hook:
        for weight in (network.encoder[0].weight, network.encoder[2].weight, network.heads[0].weight):
            weight.register_hook(lambda grad: (seen.append(grad), grad.clamp(-0.01, 0.01))[1])
    features, losses = network.forward()
    case.multi().backward(losses, **place(network, features, way))
    return network.gradients(), seen


@pytest.mark.parametrize("way", WAYS)
@every_method
def test_a_non_linear_hook_on_a_parameter_acts_once(case: MethodCase, way: str) -> None:
    way = "features" if case.needs_features else way
    gradients, seen = written(case, way, hook=True)
    expected, _ = written(case, way, hook=False)
    clamped = [0, 2, 4]  # encoder[0].weight, encoder[2].weight, heads[0].weight
    wanted = [g.clamp(-0.01, 0.01) if k in clamped else g for k, g in enumerate(expected)]
    assert_same(gradients, wanted, rtol=1e-12, atol=0.0)
    assert len(seen) == 3
    assert any(bool((g.abs() > 0.01).any()) for g in expected)  # or the hook had nothing to do


@pytest.mark.parametrize("read", ["auto", "per_loss"])
@every_method
def test_a_hook_on_the_features_sees_what_goes_into_the_encoder(case: MethodCase, read: str) -> None:
    network, twin, seen = Network(), Network(), []
    features, losses = network.forward()
    features[0].register_hook(lambda grad: (seen.append(grad), 2 * grad)[1])
    case.multi(read=read).backward(losses, features=features[0])
    features, losses = twin.forward()
    case.multi(read=read).backward(losses, features=features[0])
    for hooked, plain in zip(network.encoder.parameters(), twin.encoder.parameters(), strict=True):
        if case.family != "penalties":  # a penalty's gradient reaches the encoder by other ways, too
            torch.testing.assert_close(hooked.grad, 2 * plain.grad, rtol=1e-12, atol=0.0)
    assert len(seen) == 1
    assert len(features[0]._backward_hooks or {}) == 0
