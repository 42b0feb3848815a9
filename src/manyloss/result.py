"""What one step measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Path = Literal["plain", "tap", "hook"]


@dataclass
class StepResult:
    """What one step measured; None where nobody asked. Everything is detached and on the CPU in float64.

    Attributes:
        losses: value per loss present (averaged over the ranks).
        weights: weight per loss present.
        norms: ||gradient|| per loss, unweighted.
        gramian: [T, T] inner products of the unweighted gradients, in the order of ``losses``.
        cosines: [T, T] pairwise cosines.
        penalties: value per penalty, named by its class (the second of one class "CosReg 2").
        skipped: a loss or a gradient was not finite and a GradScaler was given: the plain gradients were
            passed on, so that the scaler skips the step, and no method learned from it.
        path: "plain", "tap" or "hook": how the gradients were read.

    """

    losses: dict[str, Tensor]
    weights: dict[str, Tensor]
    norms: dict[str, Tensor] | None = None
    gramian: Tensor | None = None
    cosines: Tensor | None = None
    penalties: dict[str, Tensor] = field(default_factory=dict)
    skipped: bool = False
    path: Path = "plain"
