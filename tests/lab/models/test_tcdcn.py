"""TCDCN's layers as GradNorm's supplement writes them, counted by hand."""

import pytest
import torch
from torch import nn

from manyloss.lab.checks import LabError
from manyloss.lab.models import tcdcn

#: inputs, outputs, kernel of every convolution, and the inputs of FC-100.
LAYERS = {
    40: ([(1, 16, 5), (16, 48, 3), (48, 64, 3), (64, 64, 2)], 256),
    160: (
        [
            (1, 16, 5),
            (16, 32, 3),
            (32, 32, 3),
            (32, 64, 3),
            (64, 64, 3),
            (64, 128, 3),
            (128, 128, 3),
            (128, 128, 3),
            (128, 128, 3),
        ],
        3200,
    ),
}


@pytest.mark.parametrize("size", LAYERS)
@pytest.mark.parametrize("width", [16, 8])
def test_layers_shapes_and_parameters(size, width):
    convolutions, flat = LAYERS[size]
    convolutions = [(max(1, i * width // 16), o * width // 16, k) for i, o, k in convolutions]
    flat = flat * width // 16
    encoder = tcdcn.encoder(size, width)
    assert tcdcn.WIDTH == 16
    found = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in found] == convolutions
    expected = sum(i * o * k * k + o for i, o, k in convolutions) + flat * 100 + 100
    assert sum(p.numel() for p in encoder.parameters()) == expected
    features = encoder(torch.randn(2, 1, size, size))
    assert features.shape == (2, 100)
    features.square().sum().backward()
    assert all(bool((p.grad != 0).any()) for p in encoder.parameters())


def test_the_small_network_has_four_convolutions_and_three_poolings():
    sizes = []
    x = torch.randn(1, 1, 40, 40)
    for layer in tcdcn.encoder(40):
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 36, 36), (16, 18, 18), (48, 16, 16), (48, 8, 8), (64, 6, 6), (64, 3, 3), (64, 2, 2)]


def test_the_pooled_activation_is_that_of_the_paper():
    """The largest |tanh x| of each pool, and its gradient, though the tanh comes after the pool."""
    encoder = tcdcn.encoder(40, 4).double()
    x = torch.randn(3, 1, 40, 40, dtype=torch.float64)
    expected, pooled = x, 0
    for layer in encoder:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            expected = layer(expected).tanh().abs()
            if isinstance(layer, nn.Conv2d) and pooled < 3:
                expected, pooled = nn.functional.max_pool2d(expected, 2), pooled + 1
            elif isinstance(layer, nn.Conv2d):
                expected = expected.flatten(1)
    features = encoder(x)
    torch.testing.assert_close(features, expected)
    gradients = [
        torch.autograd.grad(each.square().sum(), list(encoder.parameters())) for each in (features, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_another_size_is_refused():
    with pytest.raises(LabError, match=r"no TCDCN for faces of 80 pixels\. Known: 40, 160"):
        tcdcn.encoder(80)
