"""The gradient penalty against a sum over single numbers, differentiated by autograd."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.penalties import CosReg, GradientPenalty
from tests.problems import Maps, Network, Pyramid, Recurrent, assert_same
from tests.reference.cosreg import cosreg
from tests.reference.gradient_penalty import per_example, squared_norm


@pytest.mark.parametrize("layout", [Network, Maps, Pyramid, Recurrent], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("where", ["features", "shared_params", "both"])
def test_the_step_is_the_oracles(layout: type[Network], where: str) -> None:
    network, twin = layout(3), layout(3)
    multi = MultiLoss(penalties=[GradientPenalty(0.7)])
    for step in range(2):
        network.zero_grad()
        features, losses = network.forward(step)
        place = {}
        if where != "shared_params":
            place["features"] = features
        if where != "features":
            place["shared_params"] = network.last_layer()
        result = multi.backward(losses, **place)
        features, losses = twin.forward(step)
        total = sum(losses.values())
        if where == "features":
            penalty = 0.7 * per_example(total, features)
        else:
            penalty = 0.7 * squared_norm(total, twin.last_layer())
        expected = torch.autograd.grad(total + penalty, twin.parameters(), allow_unused=True)
        assert_same(network.gradients(), list(expected))
        assert float(result.penalties["GradientPenalty"]) == pytest.approx(float(penalty.detach()), rel=1e-9)


def test_a_weight_of_zero_is_a_plain_backward() -> None:
    network, twin = Network(), Network()
    features, losses = network.forward()
    MultiLoss(penalties=[GradientPenalty(0.0)]).backward(losses, features=features[0])
    sum(twin.forward()[1].values()).backward()
    assert_same(network.gradients(), twin.gradients())


def test_penalties_add_up() -> None:
    network, twin = Network(), Network()
    _, losses = network.forward()
    multi = MultiLoss(penalties=[GradientPenalty(0.2), CosReg(3.0)])
    result = multi.backward(losses, shared_params=network.last_layer())
    _, losses = twin.forward()
    rows = [
        torch.cat(
            [part.reshape(-1) for part in torch.autograd.grad(loss, twin.last_layer(), create_graph=True)]
        )
        for loss in losses.values()
    ]
    total = sum(losses.values())
    total = total + 0.2 * squared_norm(total, twin.last_layer()) + cosreg(rows, 3.0)
    assert_same(network.gradients(), list(torch.autograd.grad(total, twin.parameters())))
    assert set(result.penalties) == {"GradientPenalty", "CosReg"}


def test_a_negative_weight_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="weight must be a finite number, 0 or more"):
        GradientPenalty(-1.0)
