"""Second derivatives of convolution and batch normalisation without torch's slow generic ones.

Differentiating an input gradient runs through every layer's second derivative. On a CPU torch computes
batch normalisation's in some thirty passes over the activations, more than a whole plain step of a ResNet,
and a convolution's weight gradient there as a convolution with a kernel of the image's size. Here the first
is one first derivative and three passes, and the second the kernel of every plain step. Same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_inputs_only: ContextVar[bool] = ContextVar("inputs_only", default=False)


@contextmanager
def inputs_only() -> Iterator[None]:
    """Around a read of input gradients: a Python function is not told by autograd that nobody asked for its
    weight's gradient.
    """
    token = _inputs_only.set(True)
    try:
        yield
    finally:
        _inputs_only.reset(token)


# -- convolution ---------------------------------------------------------------------------------------------

_convolution_backward = torch.ops.aten.convolution_backward


#: Stride, padding, dilation, transposed, output padding and groups, as torch.convolution takes them.
_Geometry = tuple[Any, ...]


class _Convolution(torch.autograd.Function):
    """y = w * x + bias; x [B, C, ...], w [K, C / groups, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.bias_sizes = geometry, None if bias is None else list(bias.shape)
        ctx.bias_is_leaf = bias is None or bias.is_leaf
        return torch.convolution(x, w, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        of_x, of_w, of_bias, _ = ctx.needs_input_grad
        if _inputs_only.get():  # a weight that was computed may depend on the inputs, too
            of_w, of_bias = of_w and not w.is_leaf, of_bias and not ctx.bias_is_leaf
        g_x = None
        if of_x and torch.is_grad_enabled():
            g_x, of_x = _ConvolutionInput.apply(g, w, x.shape, ctx.geometry), False  # type: ignore[no-untyped-call]
        if of_x or of_w or of_bias:
            mask = [of_x, of_w, of_bias]
            other, g_w, g_bias = _convolution_backward(g, x, w, ctx.bias_sizes, *ctx.geometry, mask)
            return other if of_x else g_x, g_w if of_w else None, g_bias if of_bias else None, None
        return g_x, None, None, None


class _ConvolutionInput(torch.autograd.Function):
    """The gradient of x, linear in g and in w."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, shape: torch.Size, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.geometry = geometry
        x = g.new_empty(1).expand(shape)  # only its shape counts
        result: Tensor = _convolution_backward(g, x, w, None, *geometry, [True, False, False])[0]
        return result

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        g, w = ctx.saved_tensors
        to_g = torch.convolution(u, w, None, *ctx.geometry)
        to_w = None
        if ctx.needs_input_grad[1]:
            to_w = _convolution_backward(g, u, w, None, *ctx.geometry, [False, True, False])[1]
        return to_g, to_w, None, None


def _convolution(
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """The signature of F.conv1d to F.conv3d."""
    if not _replaced(input, weight, bias) or isinstance(padding, str) or input.dim() != weight.dim():
        return function(input, weight, bias, stride, padding, dilation, groups)

    def each(given: int | Sequence[int]) -> list[int]:
        return [given] * (input.dim() - 2) if isinstance(given, int) else list(given)

    geometry: _Geometry = (each(stride), each(padding), each(dilation), False, each(0), groups)
    result: Tensor = _Convolution.apply(input, weight, bias, geometry)  # type: ignore[no-untyped-call]
    return result


# -- batch normalisation -------------------------------------------------------------------------------------

_native = torch.ops.aten.native_batch_norm
_native_backward = torch.ops.aten.native_batch_norm_backward


def _first(g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor, eps: float) -> Any:
    """Return weight r P(g), sum g x̂ and sum g, where P(g) = g - mean(g) - x̂ mean(g x̂)."""
    return _native_backward(g, x, weight, None, None, mean, r, True, eps, [True, True, True])


class _BatchNorm(torch.autograd.Function):
    """y = x̂ weight + bias with x̂ = (x - mean) r, r = (var + eps)^-1/2 of the batch; x [B, C, ...]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, r = _native(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, r)
        ctx.eps, ctx.has_bias = eps, bias is not None
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, mean, r = ctx.saved_tensors
        first = _BatchNormBackward.apply(g, x, weight, mean, r, ctx.eps)  # type: ignore[no-untyped-call]
        return (
            first[0], first[1] if weight is not None else None, first[2] if ctx.has_bias else None,
            None, None, None, None,
        )  # fmt: skip


class _BatchNormBackward(torch.autograd.Function):
    """The three first derivatives, which can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor, eps: float
    ) -> Any:
        ctx.set_materialize_grads(False)
        g_x, g_weight, g_bias = _first(g, x, weight, mean, r, eps)
        ctx.save_for_backward(g, x, weight, mean, r, g_x, g_weight, g_bias)
        ctx.eps = eps
        return g_x, g_weight, g_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, w: Tensor | None) -> Any:
        """From the cotangents u of g_x, v of g_weight and w of g_bias to those of g, x and weight."""
        g, x, weight, mean, r, g_x, g_weight, g_bias = ctx.saved_tensors
        count = x.numel() // x.shape[1]

        def wide(channels: Tensor) -> Tensor:  # [C] -> [1, C, 1, ...]
            return channels.to(x.dtype).view([1, -1] + [1] * (x.dim() - 2))

        def normalized(factor: Tensor) -> Tensor:  # x̂ factor, one pass
            result: Tensor = (x - wide(mean)).mul_(wide(factor * r))
            return result

        to_g = to_x = to_weight = None
        if u is not None:
            to_g, u_hat, u_sum = _first(u, x, weight, mean, r, ctx.eps)  # weight r P(u), sum u x̂, sum u
            dot = (u * g).reshape(*x.shape[:2], -1).sum(2).sum(0, dtype=torch.float64)
            dot = dot - (u_sum.double() * g_bias + u_hat.double() * g_weight) / count  # sum u P(g)
            to_weight = (r * dot).to(r.dtype)
            total = to_weight if weight is None else to_weight * weight  # sum u g_x
            to_x = normalized(-r * total / count)
            to_x.addcmul_(to_g, wide(-r * g_weight / count)).addcmul_(g_x, wide(-r * u_hat / count))
            to_weight = None if weight is None else to_weight
        if v is not None:  # g_weight = sum g x̂
            through = _first(g, x, v, mean, r, ctx.eps)[0]
            to_x = through if to_x is None else to_x + through
            to_g = normalized(v) if to_g is None else to_g + normalized(v)
        if w is not None:  # g_bias = sum g
            to_g = wide(w).expand_as(g) if to_g is None else to_g + wide(w)
        return to_g, to_x, to_weight, None, None, None


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """The signature of F.batch_norm."""
    ours = (
        training
        and _replaced(input, weight, bias)
        and input.dim() >= 2
        and input.numel() > input.shape[1]  # torch names the error of a single value per channel
    )
    if not ours:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    result: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, running_mean, running_var, momentum, eps
    )
    return result


# -- where they are used -------------------------------------------------------------------------------------

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class SecondDerivatives(TorchFunctionMode):
    """Within it, convolutions and batch normalisation in training mode are those above; the rest is torch's.

    Only in full precision on a CPU, where it was measured; running statistics are updated as ever.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call, or replace, a torch function."""
        if torch.compiler.is_compiling():  # a compiled part has first derivatives only
            return func(*args, **(kwargs or {}))
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS:
            return _convolution(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _replaced(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    return (
        isinstance(input, Tensor)
        and not torch._C._are_functorch_transforms_active()  # vmap has rules for torch's own
        and not _saved_elsewhere()
        and input.requires_grad
        and input.device.type == "cpu"
        and input.dtype in (torch.float32, torch.float64)
        and all(each is None or each.dtype == input.dtype for each in (weight, bias))
        and not torch.is_autocast_enabled("cpu")
    )


def _saved_elsewhere() -> bool:
    """Whether saved tensors are hooked: a checkpointed part is computed again in backward, where this mode is
    not seen, and must then save the same tensors.
    """
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is None or hooks(True) is not None
