"""Saliency maps (Simonyan et al. 2013), as in GREAT's Figure 4."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.input_gradients import gradient_of_score, ordinary
from manyloss.restore import modes_restored
from manyloss.robustness.attacks import checked_logits


def saliency_maps(model: nn.Module, x: Tensor, y: Tensor, *, of: str = "loss") -> Tensor:
    """|grad_x| per example in eval mode; images [B, C, H, W] give the largest over the channels, [B, H, W].

    of: "loss" (cross-entropy) or "logit" (the true class's). Other inputs give |grad_x| in the shape of x.
    """
    checks.one_of("of", of, ("loss", "logit"))
    y = ordinary(y)

    def score(logits: Tensor) -> Tensor:  # [B]
        if of == "loss":
            return F.cross_entropy(logits, y, reduction="none")
        return logits.gather(1, y[:, None]).squeeze(1)

    with modes_restored(model):
        model.eval()
        checked_logits(model, x, y)
        size = gradient_of_score(model, x, score).abs()
    return size.amax(1) if x.dim() == 4 else size
