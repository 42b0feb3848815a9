"""Auxiliary networks of GREAT (Sinha et al. 2018, supplement): they read gradients, and use LeakyReLU(0.2).

Leaky, because a gradient's sign matters and the model is trained through the auxiliary's own input gradient.
Any other module that returns [N, classes] (defense, alignment) or [N] / [N, 1] (distillation) will do as
well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manyloss import checks

SLOPE = 0.2


def leaky(model: nn.Module, slope: float = SLOPE) -> nn.Module:
    """A copy of `model` in which every nn.ReLU is LeakyReLU(slope); the weights are copied, the model
    unchanged.

    Functional relu() calls cannot be seen and stay as they are.
    """
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    copied = copy.deepcopy(inner)
    if not any(isinstance(module, nn.ReLU) for module in copied.modules()):
        raise ValueError(
            f"{type(inner).__name__} holds no nn.ReLU module that could become a LeakyReLU; write functional "
            "relu() calls as modules, or build the auxiliary network yourself."
        )
    if isinstance(copied, nn.ReLU):
        return nn.LeakyReLU(slope)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(slope))
    for parameter in copied.parameters():
        parameter.grad = None
    return copied


def _activation(slope: float) -> nn.Module:
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


class EveryNth(nn.Conv2d):
    """A 1x1 convolution without bias of every n-th pixel: [N, inputs, H, W] -> [N, outputs, H / n, W / n].

    It is ``nn.Conv2d(inputs, outputs, 1, n, bias=False)``, but that torch is given no stride: on a CPU torch
    2.13 writes outside its memory in the backward pass of a strided one, where images are channels last, have
    48 pixels or more and up to 8 channels.
    """

    def __init__(self, inputs: int, outputs: int, n: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        """Take the pixels, then convolve."""
        convolved: Tensor = super().forward(x[:, :, :: self.n, :: self.n])
        return convolved


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A residual module's skip connection: nothing, or `EveryNth` with BatchNorm if the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(EveryNth(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class ResidualModule(nn.Module):
    """`convolutions` 3x3 convolutions with BatchNorm, and a skip connection (1x1 where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int, convolutions: int, slope: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for position in range(convolutions):
            first = position == 0
            layers += [
                nn.Conv2d(inputs if first else outputs, outputs, 3, stride if first else 1, 1, bias=False),
                nn.BatchNorm2d(outputs),
                _activation(slope),
            ]
        self.body = nn.Sequential(*layers[:-1])
        self.skip = shortcut(inputs, outputs, stride)
        self.activation = _activation(slope)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        activated: Tensor = self.activation(self.body(x) + self.skip(x))
        return activated


def residual_network(
    outputs: int,
    *,
    channels: int = 3,
    stem: int = 64,
    widths: Sequence[int],
    strides: Sequence[int],
    convolutions: int = 2,
    stem_stride: int = 1,
    slope: float = SLOPE,
) -> nn.Sequential:
    """A 3x3 convolution, residual modules, average pooling and a linear layer: [N, channels, H, W] -> [N,
    outputs].
    """
    modules: list[nn.Module] = []
    width = stem
    for next_width, stride in zip(widths, strides, strict=True):
        modules.append(ResidualModule(width, next_width, stride, convolutions, slope))
        width = next_width
    return nn.Sequential(
        nn.Conv2d(channels, stem, 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(stem),
        _activation(slope),
        *modules,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, outputs),
    )


def resnet18(
    outputs: int = 10, *, channels: int = 3, width: int = 64, stem_stride: int = 1, slope: float = SLOPE
) -> nn.Module:
    """ResNet-18 for 32x32 inputs: 8 modules of 2 convolutions (`stem_stride=2` for 64x64; `slope=0` is
    ReLU).
    """
    widths = [width * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8)]
    return residual_network(
        outputs, channels=channels, stem=width, widths=widths, strides=(1, 1, 2, 1, 2, 1, 2, 1),
        stem_stride=stem_stride, slope=slope,
    )  # fmt: skip


def resnet11(
    outputs: int = 1,
    *,
    modules: int = 8,
    channels: int = 3,
    width: int = 64,
    stem_stride: int = 1,
    slope: float = SLOPE,
) -> nn.Module:
    """ResNet-11: 8 modules of 1 convolution, or 4 of 2, with a convolution, a pooling and a linear layer.

    The paper counts 8 + 1 + 1 + 1 and 4 x 2 + 1 + 1 + 1 layers, so a module of the first kind has one
    convolution.
    """
    checks.one_of("modules", str(modules), ("8", "4"))
    factors, strides = (
        ((1, 1, 2, 2, 4, 4, 8, 8), (1, 1, 2, 1, 2, 1, 2, 1)) if modules == 8 else ((1, 2, 4, 8), (1, 2, 2, 2))
    )
    return residual_network(
        outputs,
        channels=channels,
        stem=width,
        widths=[width * factor for factor in factors],
        strides=strides,
        convolutions=8 // modules,
        stem_stride=stem_stride,
        slope=slope,
    )


def falling_resnet11(outputs: int, channels: int, *, slope: float = SLOPE) -> nn.Module:
    """The task classifier: as many channels as the features have, halved over 4 modules of 2 convolutions."""
    widths = [max(channels // 2**step, 4) for step in range(1, 5)]
    return residual_network(
        outputs, channels=channels, stem=channels, widths=widths, strides=(1, 1, 1, 1), slope=slope
    )


def cnn5(outputs: int = 1, *, channels: int = 3, image_size: int = 32, slope: float = SLOPE) -> nn.Module:
    """Three 3x3 convolutions (32, 64, 128 channels; strides 1, 2, 2), then linear 128 and the outputs."""
    layers: list[nn.Module] = []
    for inputs, width, stride in ((channels, 32, 1), (32, 64, 2), (64, 128, 2)):
        layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.BatchNorm2d(width), _activation(slope)]
    side = -(-image_size // 4)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(128 * side * side, 128),
        nn.BatchNorm1d(128),
        _activation(slope),
        nn.Linear(128, outputs),
    )


def mlp(
    inputs: int, outputs: int = 1, *, hidden: Sequence[int] = (128, 128), slope: float = SLOPE
) -> nn.Module:
    """For flat gradients: [N, ...] with `inputs` numbers per example -> [N, outputs]."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = inputs
    for next_width in hidden:
        layers += [nn.Linear(width, next_width), nn.BatchNorm1d(next_width), _activation(slope)]
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, outputs))
