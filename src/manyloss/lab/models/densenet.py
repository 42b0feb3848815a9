"""DenseNet-BC for 32x32 images (Huang et al. 2017), with a BatchNorm of its own for every domain.

Three blocks of n = (depth - 4) / 6 layers, BN-ReLU-CONV-1-4k and BN-ReLU-CONV-3-k, whose outputs are
appended to their inputs; between the blocks BN-ReLU-CONV-1 to half of the channels and an average pooling.
With 100 layers and k = 12 it has 0.8 M parameters. GradDrop (2020, appendix A.5) shares all of it between two
data sets but the BatchNorms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss.lab import checks

BLOCKS = 3
BOTTLENECK = 4


class Norm(nn.Module):
    """ReLU of the BatchNorm of one of several domains."""

    def __init__(self, channels: int, domains: int) -> None:
        super().__init__()
        self.of_domain = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(domains))

    def forward(self, x: Tensor, domain: int) -> Tensor:
        """[B, C, H, W] -> the same."""
        return F.relu(self.of_domain[domain](x))


class DenseLayer(nn.Module):
    """[B, C, H, W] -> [B, C + k, H, W], the input first."""

    def __init__(self, inputs: int, growth: int, domains: int) -> None:
        super().__init__()
        inside = BOTTLENECK * growth
        self.norm1 = Norm(inputs, domains)
        self.conv1 = nn.Conv2d(inputs, inside, 1, bias=False)
        self.norm2 = Norm(inside, domains)
        self.conv2 = nn.Conv2d(inside, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        """Append k channels."""
        new = self.conv2(self.norm2(self.conv1(self.norm1(x, domain)), domain))
        return torch.cat([x, new], 1)


class Transition(nn.Module):
    """[B, C, H, W] -> [B, C / 2, H / 2, W / 2]."""

    def __init__(self, inputs: int, domains: int) -> None:
        super().__init__()
        self.norm = Norm(inputs, domains)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x: Tensor, domain: int) -> Tensor:
        """Half of the channels, a quarter of the places."""
        return F.avg_pool2d(self.conv(self.norm(x, domain)), 2)


class DenseNet(nn.Module):
    """Images [B, 3, 32, 32] of one domain -> features [B, channels].

    Args:
        depth: number of layers, 6 n + 4.
        growth: k.
        domains: how many sets of BatchNorms.

    Raises:
        LabError: another depth.

    """

    def __init__(self, depth: int = 100, growth: int = 12, domains: int = 1) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise checks.LabError(f"There is no DenseNet-BC of {depth} layers. Choose 6 n + 4: 22, 40, 100.")
        channels = 2 * growth
        self.first = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for block in range(BLOCKS):
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(channels, growth, domains))
                channels += growth
            if block < BLOCKS - 1:
                layers.append(Transition(channels, domains))
                channels //= 2
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(channels, domains)
        #: Of the features.
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor, domain: int = 0) -> Tensor:
        """The features, averaged over all places."""
        x = self.first(images)
        for layer in self.layers:
            x = layer(x, domain)
        features: Tensor = self.norm(x, domain).mean((2, 3))
        return features
