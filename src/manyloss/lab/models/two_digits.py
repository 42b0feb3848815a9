"""The convolutional network of CosReg 2020, section 4: two shared layers, one more in each decoder.

Convolutions have no bias and a stride of 2 in place of pooling. The paper gives neither the kernel (here 3x3)
nor the width of the hidden layer (here 100), nor where Dropout and BatchNorm go (here behind every
convolution: BatchNorm before the ReLU, Dropout after it).
"""

from __future__ import annotations

from torch import nn


def strided_convolution(
    channels_in: int, channels_out: int, *, kernel: int, batchnorm: bool, dropout: float
) -> list[nn.Module]:
    """[B, C, H, W] -> [B, C', ceil(H/2), ceil(W/2)]."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.ReLU(),
    ]
    if batchnorm:
        layers.insert(1, nn.BatchNorm2d(channels_out))
    if dropout:
        layers.append(nn.Dropout(dropout))
    return layers


def encoder(
    filters: int = 20, *, kernel: int = 3, batchnorm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    """Images [B, 1, H, W] -> features [B, filters, ceil(H/4), ceil(W/4)]."""
    return nn.Sequential(
        *strided_convolution(1, filters, kernel=kernel, batchnorm=batchnorm, dropout=dropout),
        *strided_convolution(filters, filters, kernel=kernel, batchnorm=batchnorm, dropout=dropout),
    )


def decoder(
    height: int,
    width: int,
    filters: int = 20,
    *,
    classes: int = 5,
    hidden: int = 100,
    kernel: int = 3,
    batchnorm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Features of an image of ``height`` x ``width`` -> logits [B, classes]."""
    positions = -(-height // 8) * -(-width // 8)
    return nn.Sequential(
        *strided_convolution(filters, filters, kernel=kernel, batchnorm=batchnorm, dropout=dropout),
        nn.Flatten(),
        nn.Linear(filters * positions, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
