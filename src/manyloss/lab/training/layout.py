"""PyTorch's other memory layout for images: channels last."""

from __future__ import annotations

import torch
from torch import nn


def to_channels_last(network: nn.Module, device: torch.device | str) -> None:
    """Move a network's weights into channels last, if `device` can train it there.

    A CPU cannot with a strided 1x1 convolution: see `manyloss.adversarial.networks.EveryNth`.
    """
    strided = any(
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) != module.stride
        for module in network.modules()
    )
    if not strided or torch.device(device).type != "cpu":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
