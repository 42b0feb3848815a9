"""Gradient penalty: weight times the squared norm of the summed loss's gradient, number by number."""

from collections.abc import Sequence

import torch
from torch import Tensor


def squared_norm(loss: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """||d loss / d tensors||^2, differentiable."""
    total = torch.zeros((), dtype=torch.float64)
    for gradient in torch.autograd.grad(loss, list(tensors), create_graph=True, retain_graph=True):
        for number in gradient.reshape(-1):
            total = total + number**2
    return total


def per_example(loss: Tensor, features: Sequence[Tensor]) -> Tensor:
    """mean_b ||d loss_b / d features_b||^2 for a loss that is the mean over the batch of the loss_b."""
    total = torch.zeros((), dtype=torch.float64)
    for gradient in torch.autograd.grad(loss, list(features), create_graph=True, retain_graph=True):
        batch = len(gradient)
        for example in gradient:
            for number in example.reshape(-1):
                total = total + (batch * number) ** 2 / batch
    return total
