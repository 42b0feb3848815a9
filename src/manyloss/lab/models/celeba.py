"""CelebA's shallow network (GradDrop 2020, appendix A.4): nine layers, and one score per attribute.

[CONV-3-64][MAX][CONV-3-128]^2[MAX][CONV-3-256]^2[MAX][CONV-3-512]^2[DENSE-512]^2[DENSE-40], BatchNorm in all
layers but the last. GradDrop is applied after the last convolution: the dense layers lie behind the features
and are shared too. Convolutions are padded and, in front of a BatchNorm, have no bias.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

#: Per block: its convolutions, and their channels in multiples of the first one's. Poolings lie between.
BLOCKS = ((1, 1), (2, 2), (2, 4), (2, 8))
DENSE = 8  # outputs of the dense layers, in the same unit


def encoder(width: int = 64, channels: int = 3) -> nn.Sequential:
    """Images [B, channels, S, S] -> features [B, 8 width, S/8, S/8]."""
    layers: list[nn.Module] = []
    inputs = channels
    for number, (count, factor) in enumerate(BLOCKS):
        if number:
            layers.append(nn.MaxPool2d(2))
        for _ in range(count):
            outputs = factor * width
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
    return nn.Sequential(*layers)


class AttributeNetwork(nn.Module):
    """Images [B, C, S, S] -> features [B, 8 width, S/8, S/8] and one score [B] per attribute.

    Args:
        names: of the attributes.
        size: S, a multiple of 8.
        width: channels of the first convolution, 64 in the paper.
        channels: C.

    """

    def __init__(self, names: Sequence[str], size: int = 64, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        self.names = tuple(names)
        self.encoder = encoder(width, channels)
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = BLOCKS[-1][1] * width * (size // 8) ** 2
        for _ in range(2):
            layers += [nn.Linear(inputs, DENSE * width, bias=False), nn.BatchNorm1d(DENSE * width), nn.ReLU()]
            inputs = DENSE * width
        self.dense = nn.Sequential(*layers, nn.Linear(inputs, len(self.names)))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features that gradients are merged at, and the scores."""
        features = self.encoder(images)
        scores = self.dense(features)
        return features, dict(zip(self.names, scores.unbind(1), strict=True))
