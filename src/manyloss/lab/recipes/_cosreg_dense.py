"""What CosReg's dense experiments share (2020, section 5): SegNet with a decoder per task, and its rows.

**Network.** VGG16's convolutions are shared, from 320x320; every task has a decoder of its own, to 80x80.
The paper starts from weights of ImageNet: ``--option pretrained=FILE`` reads torchvision's. CosReg and
GradNorm measure at the encoder's last convolution.

**Rows.** single (each task), equal, gradnorm (alpha 1.5), uncertainty, cosreg (alpha 10). The paper "also"
tries alpha times the mean loss: cosreg:scale_by_loss=True. Task weights are 1 with CosReg.

**Cosines** are measured at every step, between its forward and its backward pass: a step of small scale then
takes 1.2 times as long, 1.1 times with CosReg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from manyloss.lab import checks
from manyloss.lab.models.segnet import Encoder, EncoderWithDecoders, TaskDecoder, load_vgg16
from manyloss.lab.recipes._dense import DenseRooms, starting_at_typical_depth

ROWS = ("equal", "gradnorm", "uncertainty", "cosreg", "cosreg:scale_by_loss=True")
DEPARTURES = (
    "The encoder starts from random weights unless the option pretrained names a file of ImageNet's.",
    "Small is 64x64 in, 32x32 out, 300 images, an eighth of the width, 925 steps of 8, Adam from 1e-3.",
    "Full is the paper's network, sizes, batch, learning rate and epochs.",
    "GradNorm's alpha is not given; it is 1.5, GradNorm's own for these tasks.",
)
#: What the full scale of both data sets has in common.
FULL: Mapping[str, Any] = {"epochs": 25, "seeds": 3, "image": 320, "stride": 4, "width": 64, "lr": 1e-4}
SMALL: Mapping[str, Any] = {"epochs": 25, "seeds": 3, "train": 300}
SMOKE: Mapping[str, Any] = {
    "epochs": 1,
    "seeds": 1,
    "image": 32,
    "width": 2,
    "train": 8,
    "test": 4,
    "batch_size": 4,
}


class DecoderPerTask(DenseRooms):
    """One encoder, and for every task a decoder.

    Args:
        pretrained: a file with torchvision's ``vgg16`` or ``vgg16_bn`` for the encoder.
        options: of `DenseRooms`.

    """

    epochs = 25
    #: The claims and figure 4 are about the cosine's spread: it is of every step.
    measured_epochs = math.inf

    def __init__(
        self, image: int = 64, stride: int = 2, pretrained: str | None = None, **options: Any
    ) -> None:
        super().__init__(image=image, stride=stride, **options)
        if pretrained is not None and not Path(pretrained).is_file():
            raise checks.LabError(f"pretrained: there is no file {pretrained}.")
        self.pretrained = pretrained

    def channels(self) -> Mapping[str, int]:
        """The outputs of every task."""
        raise NotImplementedError

    def model(self) -> nn.Module:
        """The encoder, with ImageNet's weights where a file has them, and the decoders."""
        encoder = Encoder(self.width)
        decoders = {
            task: TaskDecoder(self.width, self.doublings, outputs)
            for task, outputs in self.channels().items()
        }
        if self.pretrained is not None:
            load_vgg16(encoder, self.pretrained)
        return EncoderWithDecoders(
            encoder, starting_at_typical_depth(decoders) if "depth" in decoders else decoders
        )
