"""What one step measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyloss import linalg
from manyloss.plan import Place, Plan, Strategy

if TYPE_CHECKING:
    from manyloss.strategies import Outcome, Step


PLAIN = Plan("plain")


class StepResult:
    """What one step measured; None where nobody asked. Everything is detached.

    Attributes:
        plan: what was done, and why; it can be printed.
        numbers: what ``weights`` holds: "weights", or "projection coefficients" (PCGrad and its like), which
            are coordinates of the merged gradient in the losses' and do not say how much a loss counts.
        penalties: value per penalty, named by its class (the second of one class "CosReg 2").
        skipped: a loss or a gradient was not finite and a GradScaler was given: the plain gradients were
            passed on, so that the scaler skips the step, and no method learned from it.

    """

    def __init__(
        self,
        losses: Mapping[str, Tensor | float],
        weights: Mapping[str, Tensor | float],
        *,
        norms: Mapping[str, Tensor | float] | None = None,
        gramian: Tensor | None = None,
        separated: Tensor | None = None,
        penalties: Mapping[str, Tensor] | None = None,
        skipped: bool = False,
        plan: Plan = PLAIN,
        numbers: str = "weights",
    ) -> None:
        self.plan = plan
        self.numbers = numbers
        self.skipped = skipped
        self.penalties = {name: value.detach() for name, value in penalties.items()} if penalties else {}
        self._losses, self._weights, self._norms = losses, weights, norms
        self._gramian, self._separated = gramian, separated

    @classmethod
    def of(cls, step: Step, outcome: Outcome) -> StepResult:
        """What a strategy found; nothing here holds its gradients."""
        plan, measured = step.plan, None if outcome.skipped else outcome.measured
        weights = outcome.weights
        return cls(
            dict(zip(step.names, step.losses.held, strict=True)),
            dict(zip(step.names, weights, strict=True)),
            norms=dict(zip(step.names, measured.norms.tolist(), strict=True))
            if measured and plan.norms
            else None,
            gramian=measured.gramian if measured and plan.gramian else None,
            separated=outcome.separated,
            penalties=outcome.penalties,
            skipped=outcome.skipped,
            plan=plan,
            numbers="weights" if outcome.skipped else step.weighting.numbers,
        )

    @property
    def path(self) -> Strategy:
        """How gradients were read: "plain" (not at all), "one_backward", "per_loss" or "direct"."""
        return self.plan.strategy

    @property
    def measured_at(self) -> Place | None:
        """Where norms, Gramian and cosines were measured: "features", "shared_params", "virtual_layer"."""
        return self.plan.measured_at

    @cached_property
    def losses(self) -> dict[str, Tensor]:
        """Value per loss present, averaged over the ranks; float64, CPU."""
        return _on_host(self._losses)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weight (or what ``numbers`` says) per loss present; float64, CPU."""
        return _on_host(self._weights)

    @property
    def weighted_sum(self) -> Tensor:
        """sum_i w_i L_i, the value that a line search minimises; float64, CPU."""
        return torch.stack([self.weights[name] * loss for name, loss in self.losses.items()]).sum()

    @cached_property
    def norms(self) -> dict[str, Tensor] | None:
        """||gradient|| per loss, unweighted; float64, CPU."""
        if self._norms is None and self._gramian is not None:
            norms = self._gramian.diagonal().clamp(min=0.0).sqrt()
            return dict(zip(self._losses, norms.unbind(), strict=True))
        return None if self._norms is None else _on_host(self._norms)

    @property
    def gramian(self) -> Tensor | None:
        """[T, T] inner products of the unweighted gradients, in the order of ``losses``; float64, CPU.

        nan between losses that come from separate rows of the features: there it is no evidence.
        """
        if self._gramian is None or self._separated is None:
            return self._gramian
        return self._gramian.masked_fill(self._separated, torch.nan)

    @cached_property
    def cosines(self) -> Tensor | None:
        """[T, T] pairwise cosines, 0 for a zero gradient; float64, CPU. nan as in ``gramian``."""
        return None if self.gramian is None else linalg.cosines(self.gramian)

    def __repr__(self) -> str:
        parts: list[str] = [f"path={self.path!r}", f"losses={_rounded(self.losses)}"]
        parts.append(f"{self.numbers.replace(' ', '_')}={_rounded(self.weights)}")
        if self.norms is not None:
            parts.append(f"norms={_rounded(self.norms)}")
        if self.measured_at is not None:
            parts.append(f"measured_at={self.measured_at!r}")
        if self.skipped:
            parts.append("skipped=True")
        return f"StepResult({', '.join(parts)})"


def _on_host(values: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().double()
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=torch.float64, device="cpu")
        for name, value in values.items()
    }


def _rounded(values: dict[str, Tensor]) -> str:
    return "{" + ", ".join(f"{name}: {float(value):.4g}" for name, value in values.items()) + "}"
