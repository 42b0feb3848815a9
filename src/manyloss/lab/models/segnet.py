"""SegNet (Badrinarayanan et al. 2015): VGG16's convolutions, and their mirror with the poolings' own places.

The networks for NYUv2 read 320x320 and write 80x80: all five poolings, and three of the five unpoolings with
their convolutions. GradNorm's has 29 M parameters, all shared up to one last layer per task (`SegNet`);
CosReg's has a decoder for each task (`Encoder`, `Decoder`, `EncoderWithDecoders`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyloss.lab import checks
from manyloss.lab.problem import EncoderWithHeads

#: Per block of VGG16: how many convolutions, and their channels in multiples of the first layer's.
BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))

#: Per pooling, outermost first: where the maxima were, and the size [H, W] before it.
Places = Sequence[tuple[Tensor, list[int]]]


def _convolutions(inputs: int, outputs: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in outputs:
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        inputs = channels
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Images [B, 3, H, W] -> features [B, 8 width, H / 32, W / 32] and the places of the maxima."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        inputs = 3
        blocks: list[nn.Module] = []
        for count, factor in BLOCKS:
            blocks.append(_convolutions(inputs, [factor * width] * count))
            inputs = factor * width
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Places]:
        """The features behind the last pooling."""
        places: list[tuple[Tensor, list[int]]] = []
        x = images
        for block in self.blocks:
            x = block(x)
            size = list(x.shape[2:])
            x, indices = self.pool(x)
            places.append((indices, size))
        return x, places


class Decoder(nn.Module):
    """What an `Encoder` gives -> features [B, channels, H / 2^k, W / 2^k] with k = 5 - ``unpoolings``.

    Args:
        width: of the encoder.
        unpoolings: 1 to 5; 5 gives the resolution of the image back.

    """

    def __init__(self, width: int = 64, unpoolings: int = 3) -> None:
        super().__init__()
        if not 1 <= unpoolings <= len(BLOCKS):
            raise ValueError(f"SegNet has 1 to {len(BLOCKS)} unpoolings, received {unpoolings}.")
        inputs = BLOCKS[-1][1] * width
        blocks: list[nn.Module] = []
        for number in reversed(range(len(BLOCKS) - unpoolings, len(BLOCKS))):
            count, factor = BLOCKS[number]
            below = BLOCKS[max(number - 1, 0)][1]  # the channels that the block before it works with
            blocks.append(_convolutions(inputs, [factor * width] * (count - 1) + [below * width]))
            inputs = below * width
        self.blocks = nn.ModuleList(blocks)
        self.unpool = nn.MaxUnpool2d(2)
        #: Channels of the features.
        self.channels = inputs

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """Every maximum goes back to where it was."""
        for block, (indices, size) in zip(self.blocks, reversed(places), strict=False):
            x = block(self.unpool(x, indices, output_size=size))
        return x


class SegNet(nn.Module):
    """Images [B, 3, H, W] -> features [B, channels, H / 2^k, W / 2^k] with k = 5 - ``unpoolings``.

    Args:
        width: channels of the first layer, 64 in VGG16.
        unpoolings: 1 to 5; 5 gives the resolution of the image back. GradNorm's has 3.

    """

    def __init__(self, width: int = 64, unpoolings: int = 3) -> None:
        super().__init__()
        self.down, self.up = Encoder(width), Decoder(width, unpoolings)
        #: Channels of the features.
        self.channels = self.up.channels

    def forward(self, images: Tensor) -> Tensor:
        """The features that every task's last layer reads."""
        features: Tensor = self.up(*self.down(images))
        return features


class EncoderWithDecoders(EncoderWithHeads):
    """An `Encoder` that all losses share; every task's head reads its features and the places, too."""

    def forward(self, inputs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Features [B, 8 width, H / 32, W / 32] and one output per (selected) task."""
        features, places = self.encoder(inputs)
        return features, {task: head(features, places) for task, head in self.chosen_heads()}


class TaskDecoder(nn.Module):
    """A `Decoder` with a last layer: outputs [B, outputs, H / 2^k, W / 2^k]."""

    def __init__(self, width: int, unpoolings: int, outputs: int) -> None:
        super().__init__()
        self.decoder = Decoder(width, unpoolings)
        self.last = nn.Conv2d(self.decoder.channels, outputs, 1)

    def forward(self, features: Tensor, places: Places) -> Tensor:
        """The answer of one task."""
        outputs: Tensor = self.last(self.decoder(features, places))
        return outputs


@torch.no_grad()
def load_vgg16(encoder: Encoder, path: str | os.PathLike[str]) -> None:
    """Take over the convolutions, and the BatchNorms if there are, of a file in torchvision's layout.

    That is a ``state_dict`` of ``vgg16`` or ``vgg16_bn`` with names such as ``features.0.weight``.

    Raises:
        LabError: the file has other layers, or none.
        StorageError: it cannot be read.

    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        names = [name for name in saved if name.startswith("features.")]
    except OSError as error:
        raise checks.cannot_read(Path(path), error) from error
    except Exception as error:  # torch raises what its unpicklers do
        raise checks.no_pretrained_weights(path, error) from error
    given: dict[str, dict[str, Tensor]] = {}
    for name in names:
        layer, _, entry = name.removeprefix("features.").partition(".")
        given.setdefault(layer, {})[entry] = saved[name]
    layers = [given[layer] for layer in sorted(given, key=int)]
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        wanted = [module for module in encoder.modules() if isinstance(module, kind)]
        dimensions = 4 if kind is nn.Conv2d else 1
        found = [layer for layer in layers if layer["weight"].dim() == dimensions]
        if kind is nn.BatchNorm2d and not found:
            return
        shapes = [list(layer["weight"].shape) for layer in found]
        ours = [list(module.weight.shape) for module in wanted]
        if shapes != ours:
            raise checks.LabError(
                f"{path} holds {len(shapes)} layers of the kind {kind.__name__}, VGG16 of this width has "
                f"{len(ours)}, or their shapes differ. Give the state_dict of torchvision's vgg16 or "
                f"vgg16_bn, and width 64."
            )
        for module, entries in zip(wanted, found, strict=True):
            module.load_state_dict(entries)
