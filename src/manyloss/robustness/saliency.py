"""Saliency maps (Simonyan et al. 2013), as in GREAT's Figure 4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial._reading import modes_restored
from manyloss.robustness.attacks import checked_logits


def saliency_maps(model: nn.Module, x: Tensor, y: Tensor, *, of: str = "loss") -> Tensor:
    """|grad_x| per example in eval mode; images [B, C, H, W] give the largest over the channels, [B, H, W].

    of: "loss" (cross-entropy) or "logit" (the true class's). Other inputs give |grad_x| in the shape of x.
    """
    checks.one_of("of", of, ("loss", "logit"))
    with modes_restored(model):
        model.eval()
        inputs = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = checked_logits(model, inputs, y)
            checks.reaches_input(logits)
            read = (
                F.cross_entropy(logits, y, reduction="sum")
                if of == "loss"
                else logits.gather(1, y[:, None]).sum()
            )
            (gradient,) = torch.autograd.grad(read, inputs, allow_unused=True)
    size = checks.input_gradient(gradient).abs()
    return size.amax(1) if x.dim() == 4 else size
