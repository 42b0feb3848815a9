"""Reading the gradients of a model's inputs, in a form that can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._second import inputs_only

Loss = Callable[[Tensor, Tensor], Tensor]


def learning_rate_multiplier(fraction: float) -> float:
    """The multiplier m = (1 - epoch / epochs)^0.9, the paper's schedule (supplement)."""
    return float((1.0 - fraction) ** 0.9)


@contextmanager
def unchanged_on_error(*modules: nn.Module) -> Iterator[None]:
    """When the step fails, BatchNorm's statistics and every other buffer are as they were."""
    before = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """A second pass over the same batch does not count a second time in BatchNorm."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Every submodule leaves in the train or eval mode in which it came."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def loss_scale(grad_scaler: GradScaler | None, like: Tensor) -> Tensor | None:
    """The scaler's factor as a tensor on the device, None without a scaler."""
    if grad_scaler is None or not grad_scaler.is_enabled():
        return None
    scale: Tensor = grad_scaler.scale(torch.ones((), device=like.device))
    return scale


def scaled(loss: Tensor, scale: Tensor | None) -> Tensor:
    """The loss times the scaler's factor."""
    return loss if scale is None else loss * scale


def widened(values: Tensor) -> Tensor:
    """Half precision ends here; float32 and float64 stay what they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def per_example(gradient: Tensor, scale: Tensor | None) -> Tensor:
    """From the gradient of the scaled mean over the batch to the gradient of each example's own loss.

    Sum reduction: 1/B would change what the auxiliary network's BatchNorm sees.
    """
    gradient = widened(gradient)
    return gradient * (len(gradient) if scale is None else (len(gradient) / scale).to(gradient.dtype))


def loss_input_gradient(
    task_loss: Tensor, x: Tensor, scale: Tensor | None, *, create_graph: bool, who: str = "the model"
) -> Tensor:
    """grad_x of each example's loss, [B, ...]."""
    with torch.autocast(x.device.type, enabled=False), inputs_only():
        (gradient,) = torch.autograd.grad(
            scaled(task_loss, scale), x, create_graph=create_graph, allow_unused=True
        )
        return per_example(checks.input_gradient(gradient, who), scale)


def scaled_gradients(
    loss: Tensor, tensors: Sequence[Tensor], scale: Tensor | None, *, keep: bool = False
) -> list[Tensor]:
    """Gradients of a loss that stay outside every `.grad`; a tensor that the loss does not reach gets
    zeros.
    """
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(
            scaled(loss, scale), tensors, retain_graph=keep, allow_unused=True, materialize_grads=True
        )
        if scale is None:
            return list(gradients)
        return [gradient / scale.to(gradient.dtype) for gradient in gradients]


def reaching(loss: Tensor, inputs: Tensor, scale: Tensor | None, *, keep: bool = False) -> Tensor:
    """The gradient of a loss that reaches a network's inputs; no weight's gradient is computed."""
    with inputs_only():
        return scaled_gradients(loss, [inputs], scale, keep=keep)[0]


def backward(objective: Tensor, grad_scaler: GradScaler | None) -> None:
    """The one ordinary backward of the step, into `.grad`."""
    with torch.autocast(objective.device.type, enabled=False):
        whole: Tensor = objective if grad_scaler is None else grad_scaler.scale(objective)
        torch.autograd.backward(whole)
