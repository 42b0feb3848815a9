"""How pure the sign of the losses' gradients is, position by position (GradDrop 2020, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyloss.distributed import ALONE, Ranks

BINS = 10


@dataclass(frozen=True)
class Purity:
    """The distribution of P over positions.

    Attributes:
        histogram: share of the decided positions per tenth of P in [0, 1].
        mixed: share of the decided positions where the losses disagree in sign (0 < P < 1).
        passed: share of sum_i |G_i| that GradDrop (k = 1, no leak) lets pass on average.

    """

    histogram: tuple[float, ...]
    mixed: float
    passed: float


def purity_of(
    gradients: Sequence[Tensor], features: Sequence[Tensor] | None = None, ranks: Ranks = ALONE
) -> Purity | None:
    """P = (1 + sum_i G_i / sum_i |G_i|) / 2 with G_i = sgn(A) o grad_A L_i summed over the batch.

    A position passes sum_i max(G_i, 0) with probability P, else sum_i max(-G_i, 0).

    Args:
        gradients: [T, B, *F] per features tensor, or one [T, P].
        features: the A [B, *F]; None at shared parameters, where there is no batch and no sgn(A).
        ranks: whose batches are summed.

    Returns:
        None where all gradients are zero.

    """
    positive: list[Tensor] = []
    negative: list[Tensor] = []
    for i, rows in enumerate(gradients):
        if features is None:
            G = rows
        else:
            G = ranks.sum((rows * torch.sign(features[i].detach()).to(rows.dtype)).sum(1))  # [T, *F]
        positive.append(G.clamp(min=0).sum(0).flatten())
        negative.append(G.clamp(max=0).sum(0).neg().flatten())
    plus, minus = torch.cat(positive).double(), torch.cat(negative).double()
    size = plus + minus
    decided = size > 0
    count = int(decided.sum())
    if count == 0:
        return None
    plus, minus, size = plus[decided], minus[decided], size[decided]
    P = plus / size
    bins = torch.bincount((P * BINS).long().clamp(max=BINS - 1), minlength=BINS)
    return Purity(
        histogram=tuple((bins.double() / count).tolist()),
        mixed=float(((P > 0) & (P < 1)).double().mean()),
        passed=float((P * plus + (1 - P) * minus).sum() / size.sum()),
    )
