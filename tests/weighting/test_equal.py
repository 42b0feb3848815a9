"""Equal weights are a plain backward, and nothing else."""

import torch

from manyloss import MultiLoss
from manyloss.weighting import Equal
from tests.problems import Network, assert_identical, names


def test_equal_is_the_plain_sum_bit_for_bit() -> None:
    for multi in (MultiLoss(), MultiLoss(weighting=Equal())):
        network, twin = Network(4), Network(4)
        features, losses = network.forward()
        result = multi.backward(losses, features=features[0])
        _, plain = twin.forward()
        sum(plain.values()).backward()
        for actual, expected in zip(network.gradients(), twin.gradients(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-16)
        assert result.weights is None or all(float(result.weights[name]) == 1.0 for name in names(4))


def test_losses_without_any_place_are_summed() -> None:
    network, twin = Network(2), Network(2)
    MultiLoss().backward(network.forward()[1])
    MultiLoss().backward(twin.forward()[1], shared_params=twin.last_layer())
    assert_identical(network.gradients(), twin.gradients())
