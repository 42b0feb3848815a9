"""CNN-5, the small student of GREAT (2018, supplement): the library's network with plain ReLU."""

from __future__ import annotations

from torch import nn

from manyloss.adversarial import networks


def cnn5(classes: int = 10, *, channels: int = 3, image_size: int = 32) -> nn.Module:
    """Three convolutions and two linear layers: images [B, C, S, S] -> logits [B, classes]."""
    return networks.cnn5(classes, channels=channels, image_size=image_size, slope=0.0)
