"""Inner products folded part by part: the step is that of `direct`, and nothing of it stays behind."""

from typing import Any

import pytest
import torch

from manyloss import MultiLoss
from manyloss.errors import NotFiniteError
from manyloss.weighting import MGDA
from tests.problems import Maps, Network, Recurrent, assert_same
from tests.properties.methods import MethodCase, methods

gramian_methods = methods(lambda case: case.weighs_gradients and not case.make().needs.norms)


def steps(multi: MultiLoss, network: Network, **keywords: Any) -> tuple[list[Any], list[str]]:
    written, paths = [], []
    for step in range(3):
        network.zero_grad()
        _, losses = network.forward(step)
        result = multi.backward(losses, shared_params=network.encoder, **keywords)
        written += network.gradients()
        paths.append(result.path)
    return written, paths


@pytest.mark.parametrize("layout", [Network, Maps, Recurrent], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("rescale", ["none", "sum_norm"])
@gramian_methods
def test_the_step_is_that_of_direct(case: MethodCase, rescale: str, layout: type[Network]) -> None:
    folded, paths = steps(case.multi(rescale=rescale, low_memory=True), layout())
    direct, others = steps(case.multi(rescale=rescale), layout())
    assert_same(folded, direct, rtol=1e-7, atol=1e-10)
    assert set(paths) == {"folded"}
    assert set(others) == {"direct"}


def test_gradients_add_up_and_are_divided() -> None:
    network, twin = Network(), Network()
    for _ in range(2):
        for net, low in ((network, True), (twin, False)):
            _, losses = net.forward()
            MultiLoss(MGDA(), low_memory=low).backward(losses, shared_params=net.encoder, divide_by=2)
    assert_same(network.gradients(), twin.gradients(), rtol=1e-9, atol=1e-12)


def test_what_is_not_finite_is_named_before_anything_is_written() -> None:
    network = Network()
    features, losses = network.forward()
    losses["loss_1"] = losses["loss_1"] + 0 * (features[0] * 0).sqrt().sum()  # 0 * inf in the backward
    with pytest.raises(NotFiniteError, match="gradient of loss 'loss_1' at the shared_params"):
        MultiLoss(MGDA(), low_memory=True).backward(losses, shared_params=network.encoder)
    assert network.gradients() == [None] * len(network.parameters())


def test_a_loss_that_reaches_nothing_is_named() -> None:
    network = Network()
    _, losses = network.forward()
    losses["loss_1"] = network.heads[1].weight.square().sum()
    with pytest.raises(ValueError, match="'loss_1' reaches none of the shared_params"):
        MultiLoss(MGDA(), low_memory=True).backward(losses, shared_params=network.encoder)
    assert torch.is_grad_enabled()
