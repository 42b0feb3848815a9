"""What an evaluation found: accuracies, curves, the worst case, and the verdict on masking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from manyloss.robustness.masking import MaskingVerdict


@dataclass(frozen=True)
class RobustnessReport:
    """Accuracies in [0, 1]; targeted rows count the TRUE label too, and `not_reached` how often another class
    than their target is named. `curves`: attack -> eps -> accuracy.

    `robust` [N] says which examples survived every attack, in the order of the data; `worst_case_accuracy`
    is its mean. `in_float64`: the same attacks with their gradient taken in float64, on the same model; empty
    where that was not tried or the model cannot be copied to float64. `without_gradient` [N] says at which
    examples the gradient of the cross-entropy is exactly zero; `zero_gradients` is its mean.
    """

    eps: float
    examples: int
    clean_accuracy: float
    accuracy: Mapping[str, float]
    worst_case_accuracy: float
    robust: Tensor
    curves: Mapping[str, Mapping[float, float]]
    zero_gradients: float
    without_gradient: Tensor
    verdict: MaskingVerdict
    seed: int
    norm: str = "linf"
    in_float64: Mapping[str, float] = field(default_factory=dict)
    not_reached: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the per-example tensors, ready for JSON."""
        return {
            "eps": self.eps,
            "eps_255": self.eps * 255,
            "norm": self.norm,
            "examples": self.examples,
            "clean_accuracy": self.clean_accuracy,
            "accuracy": dict(self.accuracy),
            "in_float64": dict(self.in_float64),
            "not_reached": dict(self.not_reached),
            "worst_case_accuracy": self.worst_case_accuracy,
            "curves": {
                name: {str(eps): value for eps, value in curve.items()} for name, curve in self.curves.items()
            },
            "zero_gradients": self.zero_gradients,
            "masking": {
                "suspected": self.verdict.suspected,
                "reasons": list(self.verdict.reasons),
                "measured": dict(self.verdict.measured),
            },
            "seed": self.seed,
        }

    def __str__(self) -> str:
        exact = {f"{name}, gradient in float64": value for name, value in self.in_float64.items()}
        rows = {"clean": self.clean_accuracy, **self.accuracy, **exact}
        rows["worst case of all"] = self.worst_case_accuracy
        width = max(map(len, rows))
        lines = [f"{self.examples} examples, eps = {self.eps:g} ({self._other_unit(self.eps)})"]
        for name, value in rows.items():
            missed = f"   target missed {self.not_reached[name]:.2%}" if name in self.not_reached else ""
            lines.append(f"  {name:<{width}}  {value:7.2%}{missed}")
        for name, curve in self.curves.items():
            points = ", ".join(
                f"{eps:g} ({self._other_unit(eps)}): {value:.1%}" for eps, value in curve.items()
            )
            lines.append(f"  {name} over eps: {points}")
        return "\n".join([*lines, f"Verdict: {self.verdict}."])

    def _other_unit(self, eps: float) -> str:
        return in_255(eps) if self.norm == "linf" else "L2"


def in_255(eps: float) -> str:
    """Write eps as the other convention does: 0.1 -> "25.5/255"."""
    return f"{eps * 255:.4g}/255"
