"""SegNet (Badrinarayanan et al. 2015): VGG16's convolutions, and their mirror with the poolings' own places.

GradNorm's network for NYUv2 reads 320x320 and writes 80x80: all five poolings, and three of the five
unpoolings with their convolutions. It has 29 M parameters, all shared up to one last layer per task.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Per block of VGG16: how many convolutions, and their channels in multiples of the first layer's.
BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


def _convolutions(inputs: int, outputs: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in outputs:
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        inputs = channels
    return nn.Sequential(*layers)


class SegNet(nn.Module):
    """Images [B, 3, H, W] -> features [B, channels, H / 2^k, W / 2^k] with k = 5 - ``unpoolings``.

    Args:
        width: channels of the first layer, 64 in VGG16.
        unpoolings: 1 to 5; 5 gives the resolution of the image back. GradNorm's has 3.

    """

    def __init__(self, width: int = 64, unpoolings: int = 3) -> None:
        super().__init__()
        if not 1 <= unpoolings <= len(BLOCKS):
            raise ValueError(f"SegNet has 1 to {len(BLOCKS)} unpoolings, received {unpoolings}.")
        inputs = 3
        down: list[nn.Module] = []
        for count, factor in BLOCKS:
            down.append(_convolutions(inputs, [factor * width] * count))
            inputs = factor * width
        up: list[nn.Module] = []
        for number in reversed(range(len(BLOCKS) - unpoolings, len(BLOCKS))):
            count, factor = BLOCKS[number]
            below = BLOCKS[max(number - 1, 0)][1]  # the channels that the block before it works with
            up.append(_convolutions(inputs, [factor * width] * (count - 1) + [below * width]))
            inputs = below * width
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        #: Channels of the features.
        self.channels = inputs

    def forward(self, images: Tensor) -> Tensor:
        """The features that every task's last layer reads."""
        places: list[tuple[Tensor, list[int]]] = []
        x = images
        for block in self.down:
            x = block(x)
            size = list(x.shape[2:])
            x, indices = self.pool(x)
            places.append((indices, size))
        for block in self.up:
            indices, size = places.pop()
            x = block(self.unpool(x, indices, output_size=size))
        return x
