"""GradNorm's thin FCN: ResNet-50 with its strides moved earlier and no 2048 filters, and learned upsampling.

The paper gives 320x320 in, 80x80 out and 15 M parameters, "stride-2 layers are moved earlier and all
2048-filter layers are replaced by 1024-filter layers", and a "shallow ResNet decoder". Here the first three
stages have the strides, the last keeps the third's 256 and 1024 channels, and the decoder is one residual
module per upsampling, which halves the channels: 15.2 M.
"""

from __future__ import annotations

from torch import Tensor, nn

from manyloss.lab.models.resnet import EXPANSION, Bottleneck, stem

#: Per stage: modules, channels inside them in multiples of the first layer's, stride.
STAGES = ((3, 1, 2), (4, 2, 2), (6, 4, 2), (3, 4, 1))


class UpModule(nn.Module):
    """A bottleneck whose 4x4 convolution is transposed; the skip connection learns to upsample, too."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inside = max(outputs // EXPANSION, 1)
        self.skip = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs)
        )
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.ConvTranspose2d(inside, inside, 4, 2, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, 2 H, 2 W]."""
        activated: Tensor = self.activation(self.body(x) + self.skip(x))
        return activated


def thin_fcn(width: int = 64, upsamplings: int = 3) -> nn.Sequential:
    """Images [B, 3, H, W] -> features [B, 16 width / 2^u, 2^u H / 32, 2^u W / 32], u ``upsamplings``."""
    layers = stem(224, width)
    inputs = width
    for modules, factor, stride in STAGES:
        for position in range(modules):
            layers.append(Bottleneck(inputs, factor * width, stride if position == 0 else 1))
            inputs = EXPANSION * factor * width
    for _ in range(upsamplings):
        layers.append(UpModule(inputs, inputs // 2))
        inputs //= 2
    return nn.Sequential(*layers)
