"""The loss on a plane through an image: smooth for an honest model, jagged or flat for one that masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial._reading import modes_restored
from manyloss.robustness.attacks import checked_logits


def loss_landscape(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, points: int = 21, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on the plane of the gradient's sign and a random sign vector.

    Returns offsets [points] from -eps to eps, and losses [B, points, points]: losses[b, i, j] belongs to
    clip(x + offsets[i] sign(grad_x L) + offsets[j] r), r one random corner per example, decided by `seed`.
    """
    checks.eps(eps)
    checks.at_least("points", points, 2)
    generator = torch.Generator().manual_seed(seed)
    with modes_restored(model):
        model.eval()
        inputs = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = checked_logits(model, inputs, y)
            checks.reaches_input(logits)
            (gradient,) = torch.autograd.grad(
                F.cross_entropy(logits, y, reduction="sum"), inputs, allow_unused=True
            )
        along = checks.input_gradient(gradient).sign()
        across = (torch.randint(2, x.shape, generator=generator) * 2 - 1).to(x)
        offsets = torch.linspace(-eps, eps, points, dtype=x.dtype, device=x.device)
        losses = torch.empty(len(x), points, points, dtype=x.dtype, device=x.device)
        with torch.no_grad():
            for i, up in enumerate(offsets):
                for j, right in enumerate(offsets):
                    images = (x + up * along + right * across).clamp(0.0, 1.0)
                    losses[:, i, j] = F.cross_entropy(model(images), y, reduction="none")
    return offsets, losses
