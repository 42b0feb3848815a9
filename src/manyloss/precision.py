"""In which type gradients are held and measured, and which numbers a step does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """float32 for half and bfloat16 (complex64 for complex32); anything else as it is."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor.float()
    return tensor.to(torch.complex64) if tensor.dtype == torch.complex32 else tensor


def has_to_be_waited_for(device: torch.device) -> bool:
    """Whether reading a number from the device makes the host wait until it has come so far."""
    return device.type != "cpu"
