"""What an evaluation found: accuracies, curves, the worst case, and the verdict on masking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from manyloss.robustness.masking import MaskingVerdict


@dataclass(frozen=True)
class RobustnessReport:
    """Accuracies in [0, 1]; targeted rows count the TRUE label too. `curves`: attack -> eps -> accuracy.

    `robust` [N] says which examples survived every attack, in the order of the data; `worst_case_accuracy`
    is its mean.
    """

    eps: float
    examples: int
    clean_accuracy: float
    accuracy: Mapping[str, float]
    worst_case_accuracy: float
    robust: Tensor
    curves: Mapping[str, Mapping[float, float]]
    zero_gradients: float
    verdict: MaskingVerdict
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Everything but the per-example tensor, ready for JSON."""
        return {
            "eps": self.eps,
            "eps_255": self.eps * 255,
            "examples": self.examples,
            "clean_accuracy": self.clean_accuracy,
            "accuracy": dict(self.accuracy),
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
        rows = {"clean": self.clean_accuracy, **self.accuracy, "worst case of all": self.worst_case_accuracy}
        width = max(map(len, rows))
        lines = [f"{self.examples} examples, eps = {self.eps:g} ({in_255(self.eps)})"]
        lines += [f"  {name:<{width}}  {value:7.2%}" for name, value in rows.items()]
        for name, curve in self.curves.items():
            points = ", ".join(f"{eps:g} ({in_255(eps)}): {value:.1%}" for eps, value in curve.items())
            lines.append(f"  {name} over eps: {points}")
        return "\n".join([*lines, f"Verdict: {self.verdict}."])


def in_255(eps: float) -> str:
    """Write eps as the other convention does: 0.1 -> "25.5/255"."""
    return f"{eps * 255:.4g}/255"
