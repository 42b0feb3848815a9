"""SegNet's size and shapes, and unpooling to the places that were pooled."""

import pytest
import torch
from torch import nn

from manyloss.lab.models.segnet import SegNet


def test_gradnorms_network_has_29_million_parameters():
    with torch.device("meta"):
        model = SegNet()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(29e6, rel=0.03)
    encoder = sum(p.numel() for m in model.down.modules() if isinstance(m, nn.Conv2d) for p in m.parameters())
    assert encoder == 14_714_688  # the convolutions of VGG16
    assert model(torch.empty(1, 3, 320, 320, device="meta")).shape == (1, 128, 80, 80)


@pytest.mark.parametrize(("unpoolings", "size"), [(1, 5), (3, 20), (5, 80)])
def test_any_number_of_unpoolings_at_any_size(unpoolings, size):
    model = SegNet(2, unpoolings)
    features = model(torch.randn(2, 3, 80, 80))
    assert features.shape == (2, model.channels, size, size)
    features.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match=r"SegNet has 1 to 5 unpoolings, received 6"):
        SegNet(2, 6)


def test_unpooling_goes_to_the_place_of_the_maximum():
    model = SegNet(1, 5)
    for block in (*model.down.blocks, *model.up.blocks):
        convolutions = [layer for layer in block if isinstance(layer, nn.Conv2d)]
        passing = nn.Conv2d(convolutions[0].in_channels, convolutions[-1].out_channels, 1, bias=False)
        nn.init.ones_(passing.weight)
        block[0] = passing
        del block[1:]
    image = torch.zeros(1, 3, 32, 32)
    image[0, :, 13, 22] = 1.0
    assert model(image)[0, 0].nonzero().tolist() == [[13, 22]]
