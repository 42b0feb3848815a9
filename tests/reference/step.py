"""One multi-loss step, the long way: one gradient per loss and parameter, merged by hand, added to `.grad`.

No hooks, no shared graph tricks: `torch.autograd.grad` is called once per loss and once for the encoder.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def loss_gradients(losses: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """gradients[i][k] = d losses[i] / d tensors[k], zeros where a loss does not reach a tensor."""
    gradients = []
    for loss in losses:
        row = []
        for tensor in tensors:
            (gradient,) = torch.autograd.grad(loss, [tensor], retain_graph=True, allow_unused=True)
            row.append(torch.zeros_like(tensor) if gradient is None else gradient)
        gradients.append(row)
    return gradients


def flat(row: Sequence[Tensor]) -> Tensor:
    """One float64 vector."""
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in row])


def gramian(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products of the per-loss gradients over all tensors, one product at a time."""
    count = len(gradients)
    products = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            products[i, j] = (flat(gradients[i]) * flat(gradients[j])).sum()
    return products


def weighted(gradients: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """For every tensor: sum over the losses of weight times gradient."""
    merged = []
    for k in range(len(gradients[0])):
        total = torch.zeros_like(gradients[0][k])
        for row, weight in zip(gradients, weights, strict=True):
            total = total + float(weight) * row[k]
        merged.append(total)
    return merged


def step_at_features(
    losses: Sequence[Tensor],
    features: Sequence[Tensor],
    encoder_params: Sequence[Tensor],
    head_params: Sequence[Tensor],
    merge: Callable[[list[list[Tensor]]], list[Tensor]],
    head_weights: Sequence[float] | None = None,
) -> dict[int, Tensor]:
    """id(parameter) -> the gradient a step has to write.

    `merge` gets gradients[i][k] at features[k] and gives one gradient per feature tensor. Heads see the
    losses times `head_weights` (default: ones).
    """
    head_weights = [1.0] * len(losses) if head_weights is None else head_weights
    written = {}
    merged = merge(loss_gradients(losses, features))
    for param in encoder_params:
        total = torch.zeros_like(param)
        for feature, gradient in zip(features, merged, strict=True):
            (part,) = torch.autograd.grad(
                [feature], [param], grad_outputs=[gradient], retain_graph=True, allow_unused=True
            )
            if part is not None:
                total = total + part
        written[id(param)] = total
    if head_params:
        head_gradients = weighted(loss_gradients(losses, head_params), head_weights)
        written.update({id(param): grad for param, grad in zip(head_params, head_gradients, strict=True)})
    return written
