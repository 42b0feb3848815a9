"""The loss on a plane through an image: smooth for an honest model, jagged or flat for one that masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.input_gradients import gradient_of_score, ordinary
from manyloss.precision import full_precision
from manyloss.restore import modes_restored
from manyloss.robustness.attacks import checked_logits, random_signs


def loss_landscape(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, points: int = 21, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on the plane of the gradient's sign and a random sign vector.

    Returns offsets [points] from -eps to eps, and losses [B, points, points]: losses[b, i, j] belongs to
    clip(x + offsets[i] sign(grad_x L) + offsets[j] r), r one random corner per example, decided by `seed`.
    """
    checks.eps(eps)
    checks.whole("points", points, 2)
    y = ordinary(y)
    generator = torch.Generator("cpu").manual_seed(checks.seed(seed))

    def loss_at(logits: Tensor) -> Tensor:  # [B]
        return F.cross_entropy(logits, y, reduction="none")

    with modes_restored(model):
        model.eval()
        checked_logits(model, x, y)
        along = gradient_of_score(model, x, loss_at).sign()
        across = random_signs(x, generator)
        offsets = torch.linspace(-eps, eps, points, dtype=x.dtype, device=x.device)
        losses = x.new_empty(len(x), points, points)
        with torch.no_grad():
            for i, up in enumerate(offsets):
                for j, right in enumerate(offsets):
                    images = (x + up * along + right * across).clamp(0.0, 1.0)
                    losses[:, i, j] = loss_at(full_precision(model(images)))
    return offsets, losses
