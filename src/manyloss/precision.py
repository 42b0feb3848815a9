"""In which type gradients are held and measured, and which numbers a step does not wait for."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

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


_AS_IT_IS = nullcontext()


def usual_modes() -> AbstractContextManager[Any]:
    """With gradients, whatever the mode outside, and without autocast.

    A backward runs in the types of its forward, as torch advises.
    """
    on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    if not on and torch.is_grad_enabled():
        return _AS_IT_IS
    stack = ExitStack()
    stack.enter_context(torch.enable_grad())
    for device in on:
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack
