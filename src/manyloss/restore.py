"""Putting networks back as they were: train and eval modes, buffers, ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from manyloss import checks

PutBack = Callable[[], None]


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Every submodule leaves in the train or eval mode in which it came."""
    checks.network("model", model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def buffers_restored(*modules: nn.Module) -> Iterator[None]:
    """A second pass over the same batch does not count a second time in BatchNorm."""
    put_back = remember_buffers(*modules)
    try:
        yield
    finally:
        put_back()


@contextmanager
def gradients_set_aside(model: nn.Module) -> Iterator[None]:
    """Whatever is written to ``.grad`` in between is not there afterwards."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def remember_buffers(*modules: nn.Module) -> PutBack:
    """What puts BatchNorm's statistics and every other buffer back as they are now."""
    before = [
        (owner, name, buffer, buffer.detach().clone())
        for module in modules
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]

    def put_back() -> None:
        with torch.no_grad():
            for owner, name, buffer, value in before:
                buffer.copy_(value)
                setattr(owner, name, buffer)  # a module may have put another tensor there

    return put_back
