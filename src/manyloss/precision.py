"""In which type gradients are held and measured, and which numbers a step does not wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products of float32 are float32 inside, on GPUs too.

    There PyTorch rounds what enters a convolution to TF32, 10 bits, unless it is told not to, and what enters
    a matrix product where it is told to.
    """
    switches = [
        _tf32_switch(torch.backends.cudnn, "conv"),
        _tf32_switch(torch.backends.cuda, "matmul"),
    ]
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, off in switches:
            setattr(place, name, off)
        yield
    finally:
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def _tf32_switch(library: Any, operation: str) -> tuple[Any, str, Any]:
    """Where it is set, its name there, and its value for off.

    Torch has an old switch and, from 2.9 on, a new one, and refuses to read the old where the new was used.
    """
    place = library.matmul if operation == "matmul" else library
    try:
        place.allow_tf32  # noqa: B018  refused in its reading
    except RuntimeError:
        return getattr(library, operation), "fp32_precision", "ieee"
    return place, "allow_tf32", False
