"""Reading the gradients of a model's inputs: what attacks follow, and what auxiliary networks read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from manyloss.precision import full_precision

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, labels) -> one number, the mean over the batch."""


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor; what inference mode made, and no graph would take, is copied."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def as_input(x: Tensor, *, requires_grad: bool = True) -> Tensor:
    """The same values as the start of a new graph.

    Raises:
        RuntimeError: within inference mode there is no graph.

    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Nothing can be differentiated inside torch.inference_mode(), where no graph is kept: leave it "
            "for this call (torch.no_grad() around it is no obstacle)."
        )
    return ordinary(x).detach().requires_grad_(requires_grad)


def has_graph(outputs: Tensor, who: str = "the model") -> Tensor:
    """The outputs, which must have a graph.

    Raises:
        ValueError: they have none.

    """
    if not outputs.requires_grad:
        raise ValueError(
            f"The outputs of {who} do not depend on the input through a graph; remove detach(), no_grad() or "
            "inference_mode() from its forward."
        )
    return outputs


def mean_loss(loss: Loss, outputs: Tensor, y: Tensor, who: str = "the model") -> Tensor:
    """One number with a graph, in full precision.

    Raises:
        ValueError: the loss returned something else.

    """
    value: object = loss(outputs, y)
    if not isinstance(value, Tensor) or value.dim() != 0:
        received = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return one number, the mean over the batch; received {received}.")
    return full_precision(has_graph(value, who))


def input_gradient(
    outputs: Tensor,
    inputs: Tensor,
    who: str = "the model",
    *,
    sent: Tensor | None = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Tensor:
    """Differentiate outputs, weighted by ``sent`` (one number needs none), by the inputs: [B, ...].

    Raises:
        ValueError: the inputs were not reached.

    """
    with torch.autocast(inputs.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(
            outputs, inputs, sent, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
        )
    if gradient is None:
        raise ValueError(
            f"The outputs of {who} do not depend on the input; its gradient cannot be read. "
            "Look for detach() or a conversion of the input to another type in its forward."
        )
    return gradient


def gradient_of_score(model: nn.Module, x: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """grad_x of ``score(model(x))``, without a graph: [B, ...]; score returns one number per example, [B].

    Per example, as long as the model treats examples apart (eval mode).

    Raises:
        ValueError: the outputs do not depend on x.

    """
    inputs = as_input(x)
    with torch.enable_grad():
        outputs = full_precision(has_graph(model(inputs)))
        return input_gradient(score(outputs).sum(), inputs)
