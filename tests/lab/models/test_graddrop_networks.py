"""The networks of GradDrop 2020: sizes from the paper's layers, shapes, and what domains share."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from manyloss.lab.checks import LabError
from manyloss.lab.models.celeba import AttributeNetwork
from manyloss.lab.models.densenet import DenseNet, Norm

NAMES = tuple(f"attribute {number}" for number in range(40))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_attribute_network_has_the_papers_layers():
    with torch.device("meta"):
        model = AttributeNetwork(NAMES)
        features, scores = model(torch.empty(8, 3, 64, 64))
    assert features.shape == (8, 512, 8, 8)
    assert list(scores) == list(NAMES)
    assert scores["attribute 39"].shape == (8,)
    channels = [3, 64, 128, 128, 256, 256, 512, 512]
    convolutions = sum(9 * a * b + 2 * b for a, b in pairwise(channels))
    dense = (512 * 8 * 8 + 512) * 512 + 4 * 512
    assert count(model) == convolutions + dense + 512 * 40 + 40
    kinds = [type(layer) for layer in model.modules()]
    assert kinds.count(nn.Conv2d) + kinds.count(nn.Linear) - 1 == 9
    assert kinds.count(nn.BatchNorm2d) + kinds.count(nn.BatchNorm1d) == 9


@pytest.mark.slow
def test_the_attribute_network_takes_a_step_at_the_papers_size():
    model = AttributeNetwork(NAMES)
    _, scores = model(torch.rand(8, 3, 64, 64))
    torch.stack(list(scores.values())).square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_densenet_100_bc_has_the_published_size():
    with torch.device("meta"):
        model = DenseNet(100, 12)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 342)
    assert model.channels == 342
    assert count(model) + 342 * 10 + 10 == pytest.approx(0.8e6, rel=0.04)  # 769,162: "0.8M"
    assert count(model) + 342 * 10 + 10 == 769_162
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) + 1 == 100


def test_domains_share_all_but_their_batchnorms():
    one, two = DenseNet(10, 4), DenseNet(10, 4, domains=2)
    norms = sum(count(norm.of_domain[0]) for norm in one.modules() if isinstance(norm, Norm))
    assert count(two) - count(one) == norms
    images = torch.rand(4, 3, 32, 32)
    two(images, 0).square().sum().backward()
    for norm in two.modules():
        if isinstance(norm, Norm):
            assert norm.of_domain[0].weight.grad is not None
            assert norm.of_domain[1].weight.grad is None
            assert int(norm.of_domain[1].num_batches_tracked) == 0
    assert two.first.weight.grad is not None
    with pytest.raises(LabError, match=r"no DenseNet-BC of 20 layers. Choose 6 n \+ 4: 22, 40, 100"):
        DenseNet(20)


@pytest.mark.slow
def test_densenet_100_takes_a_step():
    model = DenseNet(100, 12, domains=2)
    (model(torch.rand(8, 3, 32, 32), 0).sum() + model(torch.rand(8, 3, 32, 32), 1).sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
