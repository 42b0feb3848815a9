"""GREAT's dilated ResNet for NYUv2: 43 layers, an eighth of the resolution, 512 channels; its task decoder.

The supplement gives: 43 layers, "of which 2 intermediate layers have a dilation rate of 2 and 1 has a
dilation rate of 4", an input downsampled 8 times, 512 channels. These are the levels of a dilated residual
network (Yu et al. 2017, DRN-C) whose seventh level has two modules: 1 + 2 (1 + 1 + 3 + 4 + 6 + 3 + 2 + 1)
convolutions. As there, the last two levels have no skip connections, which removes gridding. A decoder is
"a single upsampling of stride 2 and 3 convolution layers".
"""

from __future__ import annotations

from torch import Tensor, nn

from manyloss.adversarial.networks import shortcut

#: Per level: channels in multiples of the first layer's, modules, stride, dilation, skip connections.
LEVELS = (
    (1, 1, 1, 1, True),
    (2, 1, 2, 1, True),
    (4, 3, 2, 1, True),
    (8, 4, 2, 1, True),
    (16, 6, 1, 2, True),
    (32, 3, 1, 4, True),
    (32, 2, 1, 2, False),
    (32, 1, 1, 1, False),
)
CHANNELS = LEVELS[-1][0]


class DilatedModule(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a skip connection (1x1 where the shape changes) or none."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, skips: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = shortcut(inputs, outputs, stride) if skips else None
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        found = self.body(x)
        activated: Tensor = self.activation(found if self.skip is None else found + self.skip(x))
        return activated


def dilated_resnet(width: int = 16) -> nn.Sequential:
    """Images [B, 3, H, W] -> features [B, 32 width, H / 8, W / 8]; the paper's 512 channels are width 16."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for factor, modules, stride, dilation, skips in LEVELS:
        for position in range(modules):
            layers.append(
                DilatedModule(inputs, factor * width, stride if position == 0 else 1, dilation, skips)
            )
            inputs = factor * width
    return nn.Sequential(*layers)


def task_decoder(inputs: int, outputs: int) -> nn.Sequential:
    """Features [B, inputs, H, W] -> [B, outputs, 2 H, 2 W]; the channels halve, as the paper is silent."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(inputs, inputs // 2, 3, padding=1, bias=False),
        nn.BatchNorm2d(inputs // 2),
        nn.ReLU(),
        nn.Conv2d(inputs // 2, inputs // 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(inputs // 4),
        nn.ReLU(),
        nn.Conv2d(inputs // 4, outputs, 1),
    )
