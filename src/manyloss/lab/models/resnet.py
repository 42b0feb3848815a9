"""ResNets (He et al. 2016): 18, 50 and 152 layers for images of 32, 64 and 224 pixels; ResNet-11 of GREAT.

For 32x32 the first layer is a 3x3 convolution and nothing is pooled before the modules; for 64x64 it has
stride 2 (GREAT 2018, supplement); for 224x224 it is the original one, 7x7 with stride 2 and a max pooling.
The modules of two convolutions are the library's, which auxiliary networks are made of too.
"""

from __future__ import annotations

from torch import Tensor, nn

from manyloss.adversarial.networks import ResidualModule, resnet11, shortcut
from manyloss.lab import checks

__all__ = ["Bottleneck", "resnet11", "resnet18", "resnet18_encoder", "resnet50", "resnet152", "stem"]

EXPANSION = 4
STRIDES = (1, 2, 2, 2)
IMAGE_SIZES = (32, 64, 224)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions with BatchNorm, and a skip connection."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = shortcut(inputs, outputs, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4 width, H / stride, W / stride]."""
        activated: Tensor = self.activation(self.body(x) + self.skip(x))
        return activated


def stem(image_size: int, width: int, channels: int = 3) -> list[nn.Module]:
    """The layers before the modules: [B, channels, S, S] -> [B, width, S', S'], S' = 32, 32 or 56."""
    if image_size not in IMAGE_SIZES:
        raise checks.no_such_image_size(image_size, IMAGE_SIZES)
    if image_size == 224:
        first = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        return [first, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    first = nn.Conv2d(channels, width, 3, 2 if image_size == 64 else 1, 1, bias=False)
    return [first, nn.BatchNorm2d(width), nn.ReLU()]


def _classifier(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


def resnet18_encoder(image_size: int = 32, *, width: int = 64, channels: int = 3) -> nn.Sequential:
    """ResNet-18 without its pooling and linear layer: [B, C, 32, 32] -> [B, 8 width, 4, 4]."""
    modules: list[nn.Module] = []
    inputs = width
    for stage, stride in enumerate(STRIDES):
        outputs = width * 2**stage
        modules += [
            ResidualModule(inputs, outputs, stride, convolutions=2, slope=0.0),
            ResidualModule(outputs, outputs, 1, convolutions=2, slope=0.0),
        ]
        inputs = outputs
    return nn.Sequential(*stem(image_size, width, channels), *modules)


def resnet18(classes: int = 10, image_size: int = 32, *, width: int = 64, channels: int = 3) -> nn.Sequential:
    """ResNet-18: images [B, C, S, S] -> logits [B, classes]."""
    encoder = resnet18_encoder(image_size, width=width, channels=channels)
    return nn.Sequential(*encoder, *_classifier(8 * width, classes))


def _bottleneck_network(depths: tuple[int, ...], classes: int, image_size: int, width: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    inputs = width
    for stage, (depth, stride) in enumerate(zip(depths, STRIDES, strict=True)):
        inside = width * 2**stage
        for position in range(depth):
            modules.append(Bottleneck(inputs, inside, stride if position == 0 else 1))
            inputs = EXPANSION * inside
    return nn.Sequential(*stem(image_size, width), *modules, *_classifier(inputs, classes))


def resnet50(classes: int = 200, image_size: int = 224, *, width: int = 64) -> nn.Sequential:
    """ResNet-50: images [B, 3, S, S] -> logits [B, classes]."""
    return _bottleneck_network((3, 4, 6, 3), classes, image_size, width)


def resnet152(classes: int = 200, image_size: int = 224, *, width: int = 64) -> nn.Sequential:
    """ResNet-152: images [B, 3, S, S] -> logits [B, classes]."""
    return _bottleneck_network((3, 8, 36, 3), classes, image_size, width)
