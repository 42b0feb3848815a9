"""Static weights, by name and by position."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.weighting import Static
from tests.problems import Network, assert_same


@pytest.mark.parametrize(
    "weights",
    [{"loss_0": 0.5, "loss_1": 0.0, "loss_2": 3.0}, [0.5, 0.0, 3.0], torch.tensor([0.5, 0.0, 3.0])],
    ids=["mapping", "sequence", "tensor"],
)
def test_the_step_is_the_weighted_sum(weights) -> None:
    network, twin = Network(), Network()
    features, losses = network.forward()
    result = MultiLoss(weighting=Static(weights)).backward(losses, features=features[0])
    _, losses = twin.forward()
    (0.5 * losses["loss_0"] + 0.0 * losses["loss_1"] + 3.0 * losses["loss_2"]).backward()
    assert_same(network.gradients(), twin.gradients(), rtol=1e-12, atol=1e-15)
    assert [float(weight) for weight in result.weights.values()] == [0.5, 0.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"loss_0": 1.0, "loss_1": 1.0, "other": 1.0}, "missing: 'loss_2'; unknown: 'other'"),
        ([1.0, 2.0], "2 values for the 3 losses 'loss_0', 'loss_1', 'loss_2'"),
    ],
)
def test_weights_of_other_losses_are_refused(weights, text: str) -> None:
    network = Network()
    features, losses = network.forward()
    with pytest.raises(ValueError, match=text):
        MultiLoss(weighting=Static(weights)).backward(losses, features=features[0])
    assert network.gradients() == [None] * len(network.parameters())


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused_when_built(bad: float) -> None:
    with pytest.raises(ValueError, match="weights of Static"):
        Static([1.0, bad])
