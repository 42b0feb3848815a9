import pytest
import torch
from torch import nn

from manyloss.lab.models import two_digits


@pytest.mark.parametrize(("height", "width"), [(64, 64), (10, 20), (12, 24)])
def test_shapes(height, width):
    encoder = two_digits.encoder()
    decoder = two_digits.decoder(height, width)
    features = encoder(torch.zeros(3, 1, height, width))
    assert features.shape == (3, 20, -(-height // 4), -(-width // 4))
    assert decoder(features).shape == (3, 5)


def test_two_shared_layers_then_one_convolution_and_two_full_layers():
    encoder, decoder = two_digits.encoder(), two_digits.decoder(64, 64)
    convolutions = [m for m in (*encoder, *decoder) if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [20, 20, 20]
    assert all(m.bias is None and m.stride == (2, 2) for m in convolutions)
    assert [m.out_features for m in decoder if isinstance(m, nn.Linear)] == [100, 5]
    assert not any(isinstance(m, nn.MaxPool2d | nn.BatchNorm2d | nn.Dropout) for m in (*encoder, *decoder))


def test_parameter_counts_of_the_papers_size():
    assert sum(p.numel() for p in two_digits.encoder().parameters()) == 9 * 20 + 9 * 20 * 20
    expected = 9 * 20 * 20 + (20 * 8 * 8 + 1) * 100 + 101 * 5
    assert sum(p.numel() for p in two_digits.decoder(64, 64).parameters()) == expected


def test_batchnorm_before_and_dropout_after_every_relu():
    kinds = [type(m) for m in two_digits.encoder(batchnorm=True, dropout=0.1)]
    assert kinds == 2 * [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout]
