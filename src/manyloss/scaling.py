"""The scale that a GradScaler puts on losses: applied before a read, removed after, applied to a write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyloss.precision import full_precision


@dataclass(frozen=True)
class LossScale:
    """What losses are multiplied with in this step.

    Attributes:
        factor: 0-d tensor on the device of the losses; None without a scaler.
        skips: whether someone skips a step that is not finite.

    """

    factor: Tensor | None = None
    skips: bool = False

    @classmethod
    def of(cls, grad_scaler: Any, device: torch.device) -> LossScale:
        """The scale of a ``torch.amp.GradScaler`` (or of anything with its ``scale`` and ``is_enabled``)."""
        if grad_scaler is None:
            return NO_SCALE
        factor = grad_scaler.scale(torch.ones((), dtype=torch.float32, device=device))
        return cls(factor, bool(grad_scaler.is_enabled()))

    def divided_by(self, count: float) -> LossScale:
        """The scale of one of ``count`` micro-batches whose gradients add up to their mean."""
        if count == 1:
            return self
        if self.factor is None:
            return LossScale(torch.full((), 1.0 / count, dtype=torch.float64, device="cpu"), self.skips)
        return LossScale(self.factor / count, self.skips)

    def apply(self, tensor: Tensor) -> Tensor:
        """Times the factor."""
        return tensor if self.factor is None else tensor * self.factor.to(tensor.device, tensor.dtype)

    def remove(self, gradient: Tensor) -> Tensor:
        """Divided by the factor, in float32 at least."""
        full = full_precision(gradient)
        return full if self.factor is None else full / self.factor.to(full.device, full.dtype)


NO_SCALE = LossScale()
