"""Gradient reversal (Ganin et al. 2016), the signal by which a network becomes the adversary of another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manyloss import checks


class _Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: float) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004
        ctx.alpha = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.alpha * gradient, None


class GradientReversal(nn.Module):
    """The identity going forward; going backward it multiplies the gradient by -alpha.

    `GradientReversal(0.5)(x)` has the value and shape of `x`. What comes after it minimises its loss; what
    comes before it maximises alpha times that loss. It can be differentiated again. Set `alpha` at any time
    for a ramp.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        checks.finite("alpha", alpha)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`; its gradient will be reversed."""
        reversed_x: Tensor = _Reversal.apply(x, float(self.alpha))  # type: ignore[no-untyped-call]
        return reversed_x

    def extra_repr(self) -> str:
        """Show alpha."""
        return f"alpha={self.alpha}"
