"""Write: hooks that put the merged gradient in place of what arrives, in one ordinary backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyloss import graph
from manyloss.gradients import full_precision

Put = Callable[[int, Tensor], Tensor | None]
"""(number of the place, arriving gradient) -> what goes on from there; None leaves it."""


def scaled(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """Times a GradScaler's scale, if there is one."""
    return tensor if scale is None else tensor * scale.to(tensor.dtype)


def replace(merged: Sequence[Tensor], own: Sequence[Tensor | None], scale: Tensor | None) -> Put:
    """A hook that returns the merged gradient plus the penalties' own, and zero if it fires again."""
    fired: set[int] = set()

    def put(number: int, grad: Tensor) -> Tensor:
        if number in fired:
            return torch.zeros_like(grad)
        fired.add(number)
        extra = own[number]
        total = merged[number] if extra is None else merged[number] + full_precision(extra)
        return scaled(total, scale).to(grad.dtype)

    return put


def hooks_at_features(features: Sequence[Tensor], edges: Sequence[graph.Edge], put: Put) -> list[Any]:
    """Hooks on the features; on the node that made them where DDP's sink stands between."""
    handles = []
    for j, (tensor, (node, number)) in enumerate(zip(features, edges, strict=True)):
        if tensor.grad_fn is None or tensor.grad_fn is node:
            handles.append(tensor.register_hook(partial(put, j)))  # type: ignore[no-untyped-call]
        else:
            handles.append(node.register_prehook(partial(_at_output, put, j, number)))
    return handles


def _at_output(put: Put, j: int, number: int, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    grad = grads[number]
    new = None if grad is None else put(j, grad)
    return grads if new is None else (*grads[:number], new, *grads[number + 1 :])


def hooks_at_params(params: Sequence[Tensor], put: Put) -> list[Any]:
    """Hooks on leaves; what is returned is what ``.grad`` takes in."""
    return [
        param.register_hook(partial(put, j))  # type: ignore[no-untyped-call]
        for j, param in enumerate(params)
    ]
