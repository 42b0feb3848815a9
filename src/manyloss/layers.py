"""Linear layers and convolutions, found in autograd's graph by the parameters that they alone use.

The gradient of such a layer's weight is a sum over N positions (examples, times the places that its kernel
visits), sum_n d_n a_n^T, of what comes back at its output and what went in. Both are there without it: d_n by
``torch.autograd.grad(..., [layer.output])``, and a_n is saved in the graph.

Axis letters: B batch, C channels out, *S sizes in space, N = B x S positions, k numbers in at one of them, g
groups of channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from manyloss.graph import LEAF, type_name
from manyloss.precision import full_precision

_BETWEEN = (
    "TBackward0",
    "ToCopyBackward0",
)  # parameter and layer: the transpose of F.linear, autocast's copy
_SLOTS: dict[str, tuple[int, int | None]] = {
    "ConvolutionBackward0": (1, 2),
    "AddmmBackward0": (2, 0),
    "MmBackward0": (1, None),
}
"""Which inputs of a layer's node are its weight and its bias."""
_OF_WEIGHT: dict[int, Callable[..., Tensor]] = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution, or a linear layer as one without space, that is used once.

    Attributes:
        params: the weight, and the bias if it was asked for.
        output: the edge of the output, [B, C, *S].
        inputs: [B, channels in, *sizes in].
        turned: the weight of a linear layer is [k, C], as in ``inputs @ weight``.

    """

    params: tuple[Tensor, ...]
    output: GradientEdge
    inputs: Tensor
    channels: int
    turned: bool = False
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    @property
    def bias(self) -> bool:
        """Whether the bias is one of the parameters."""
        return len(self.params) > 1

    @property
    def sizes(self) -> list[int]:
        """The sizes out, S."""
        each = zip(self.inputs.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return [(size + 2 * pad - gap * (width - 1) - 1) // step + 1 for size, width, step, pad, gap in each]

    @property
    def positions(self) -> int:
        """How many, N."""
        return len(self.inputs) * math.prod(self.sizes)

    @property
    def fan_in(self) -> int:
        """The numbers in at one position, k."""
        return self.inputs.shape[1] // self.groups * math.prod(self.kernel)

    def gradients(self, coming_back: Tensor) -> list[Tensor]:
        """The gradients of ``params``, of the gradient at the output [B, C, *S]."""
        d, a = full_precision(coming_back.detach()), full_precision(self.inputs.detach())
        with torch.autocast(d.device.type, enabled=False):
            if self.kernel:
                settings = self.stride, self.padding, self.dilation, self.groups
                of_weight = _OF_WEIGHT[len(self.kernel)](a, self.params[0].shape, d, *settings)
            else:
                of_weight = a.T @ d if self.turned else d.T @ a
        return [of_weight, d.movedim(1, -1).flatten(0, -2).sum(0)][: len(self.params)]

    def coming_back(self, gradient: Tensor) -> Tensor:
        """d_n, of the gradient at the output. [g, N, C / g]"""
        return self._by_group(full_precision(gradient.detach()).movedim(1, -1))

    def going_in(self) -> Iterator[Tensor]:
        """a_n, for one place in the kernel after the other. [g, N, k / prod(kernel)] each"""
        channels_last = full_precision(self.inputs.detach()).movedim(1, -1)
        padding = [pad for pad in reversed(self.padding) for _ in ("before", "behind")]
        padded = F.pad(channels_last, [0, 0, *padding]).contiguous()
        for place in itertools.product(*(range(width) for width in self.kernel)):
            seen = [
                slice(at * gap, at * gap + (size - 1) * step + 1, step)
                for at, size, step, gap in zip(place, self.sizes, self.stride, self.dilation, strict=True)
            ]
            yield self._by_group(padded[(slice(None), *seen)])

    def _by_group(self, tensor: Tensor) -> Tensor:
        """[B, *S, n] -> [g, N, n / g]"""
        return tensor.reshape(-1, self.groups, tensor.shape[-1] // self.groups).transpose(0, 1)


def find_layers(starts: Iterable[Any], params: Iterable[Tensor]) -> list[Layer]:
    """The layers whose weight is one of ``params``, used as it is, once, and by nothing else.

    A transposed convolution, a weight that is computed or used twice, complex numbers, or a layer whose input
    torch does not save as we know it, are none.

    Args:
        starts: nodes of the graph, which is looked at from there down.
        params: weights, biases and others.

    """
    wanted = {id(param): param for param in params}
    used: dict[Any, dict[int, Tensor]] = {}
    turned: dict[Any, bool] = {}
    for node, slot, leaf, transposed in _uses(starts):
        if id(leaf) in wanted:
            used.setdefault(node, {})[slot] = leaf
            turned[node] = turned.get(node, True) and not transposed
    found = [_layer(node, slots, turned[node]) for node, slots in used.items()]
    return [layer for layer in found if layer is not None]


def _uses(starts: Iterable[Any]) -> Iterator[tuple[Any, int, Tensor, bool]]:
    """Each leaf that one node takes, once: node, number of its input, leaf, and whether it is transposed."""
    takers: dict[Any, list[tuple[Any, int]]] = {}
    stack = list(starts)
    seen = set(stack)
    while stack:
        node = stack.pop()
        for slot, (child, _) in enumerate(node.next_functions):
            if child is None:
                continue
            if type_name(child) in (LEAF, *_BETWEEN):
                takers.setdefault(child, []).append((node, slot))
            if child not in seen:
                seen.add(child)
                stack.append(child)
    for leaf in takers:
        if type_name(leaf) == LEAF:
            node, slot, transposed = leaf, 0, False
            while len(takers.get(node, ())) == 1:
                node, slot = takers[node][0]
                transposed ^= type_name(node) == "TBackward0"
            if node not in takers:
                yield node, slot, leaf.variable, transposed


def _layer(node: Any, slots: dict[int, Tensor], turned: bool) -> Layer | None:
    """What a node is, given the parameters it takes, by the number of its input."""
    weight_slot, bias_slot = _SLOTS.get(node.name(), (-1, None))
    weight = slots.get(weight_slot)
    if weight is None:
        return None
    bias = None if bias_slot is None else slots.get(bias_slot)
    params = (weight,) if bias is None else (weight, bias)
    output = GradientEdge(node, 0)
    try:
        if node.name() == "ConvolutionBackward0":
            if node._saved_transposed:
                return None
            settings = (node._saved_stride, node._saved_padding, node._saved_dilation)
            kernel, groups, C = tuple(weight.shape[2:]), node._saved_groups, len(weight)
            inputs = _saved(node, "input")
            layer = Layer(params, output, inputs, C, False, groups, kernel, *map(tuple, settings))
        else:
            adds = node.name() == "AddmmBackward0"
            if adds and (node._saved_alpha, node._saved_beta) != (1, 1):
                return None
            inputs = _saved(node, "mat1" if adds else "self")
            layer = Layer(params, output, inputs, weight.numel() // inputs.shape[1], turned)
    except (AttributeError, RuntimeError):  # saved under another name, or let go already
        return None
    known = layer.inputs.layout == torch.strided and not layer.inputs.is_complex()
    return layer if known and all(param.shape == (layer.channels,) for param in params[1:]) else None


def _saved(node: Any, name: str) -> Tensor:
    """What a node has saved; not where that means to compute it anew (checkpoints) or to fetch it.

    Raises:
        AttributeError: it is not there.

    """
    if getattr(getattr(node, f"_raw_saved_{name}"), "unpack_hook", None) is not None:
        raise AttributeError(name)
    saved: Tensor = getattr(node, f"_saved_{name}")
    return saved
