"""ResNeXt-29, 8x64d (Xie et al. 2017, section 5.2): the larger teacher of GREAT on CIFAR-10."""

from __future__ import annotations

from torch import Tensor, nn

from manyloss.adversarial.networks import shortcut

STAGES = 3
MODULES_PER_STAGE = 3


class GroupedBottleneck(nn.Module):
    """1x1, grouped 3x3 (with the stride) and 1x1 convolutions with BatchNorm, and a skip connection."""

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, inside, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        activated: Tensor = self.activation(self.body(x) + self.skip(x))
        return activated


def resnext29(classes: int = 10, *, groups: int = 8, width: int = 64) -> nn.Sequential:
    """ResNeXt-29 with ``groups`` groups of ``width`` channels: [B, 3, 32, 32] -> logits [B, classes].

    All other widths are in proportion: 64 at first and 256 behind the first stage, at the paper's 64.
    """
    inputs = width
    layers: list[nn.Module] = [
        nn.Conv2d(3, inputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
    ]
    for stage in range(STAGES):
        outputs = 4 * width * 2**stage
        for position in range(MODULES_PER_STAGE):
            stride = 2 if stage > 0 and position == 0 else 1
            layers.append(GroupedBottleneck(inputs, groups * width * 2**stage, outputs, stride, groups))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
