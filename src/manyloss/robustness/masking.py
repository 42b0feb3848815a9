"""Whether a defense only hides its gradients: the verdict that stands beside every accuracy.

A masked model looks robust because gradient attacks get lost, not because there is nothing to find (Athalye
et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Sign -> how large it may be. `manyloss bench masking` says how often these err.
THRESHOLDS: Mapping[str, float] = {
    "iterated_minus_one_step": 0.01,
    "accuracy_at_eps_one": 0.05,
    "black_box_minus_white_box": 0.01,
    "cross_entropy_minus_margin": 0.03,
    "one_step_minus_half_step": 0.10,
    "own_precision_minus_float64": 0.10,
    "zero_gradients": 0.10,
}
ROUNDING = 1e-9  # accuracies are quotients: exactly at a threshold is not over it


@dataclass(frozen=True)
class MaskingVerdict:
    """`suspected`, the `reasons` in words, and the numbers that were `measured` for each test."""

    suspected: bool
    reasons: tuple[str, ...]
    measured: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.suspected:
            return f"no sign of masking in {len(self.measured)} tests (which does not prove robustness)"
        return "masking suspected: " + "; ".join(self.reasons)


def size_of(sign: str, measured: float) -> float:
    """How far a measured number points to masking, to be compared with its threshold."""
    if sign == "black_box_minus_white_box":
        return -measured
    return abs(measured) if sign == "cross_entropy_minus_margin" else measured


def _strongest(accuracy: Mapping[str, float]) -> tuple[str, float]:
    return min(accuracy.items(), key=lambda item: item[1])


def masking_verdict(
    *,
    one_step: Mapping[str, float],
    iterated: Mapping[str, float],
    white_box: Mapping[str, float],
    black_box: Mapping[str, float],
    cross_entropy: float | None,
    margin: float | None,
    at_eps_one: float | None,
    zero_gradients: float,
    half_step: Mapping[str, float] | None = None,
    in_float64: Mapping[str, float] | None = None,
    unlimited: float = 1.0,
    examples: int | None = None,
) -> MaskingVerdict:
    """Apply `THRESHOLDS` to accuracies in [0, 1].

    one_step, iterated: accuracy by attack, all untargeted with cross-entropy. white_box, black_box: all
    untargeted ones. cross_entropy, margin: the same PGD with either loss. at_eps_one: under the strongest
    attack with the whole cube allowed, by the radius `unlimited`. zero_gradients: share of examples whose
    input gradient is exactly zero. half_step: accuracy under attacks of one_step at half the radius.
    in_float64: accuracy under attacks of one_step and iterated whose gradient is taken in float64. What is
    empty or None is not tested. examples: how many images these are shares of; each reason then says how many
    speak for it, since two points of few images are noise.
    """
    reasons: list[str] = []
    measured: dict[str, float] = {}

    def over(sign: str, value: float) -> bool:
        measured[sign] = value
        return size_of(sign, value) > THRESHOLDS[sign] + ROUNDING

    def counted(share: float) -> str:
        return "" if examples is None else f" ({round(abs(share) * examples)} of {examples} images)"

    def beside(
        sign: str, own: Mapping[str, float], other: Mapping[str, float] | None, how: str, why: str
    ) -> None:
        """The attack that gains the most when it is made in another way."""
        gaps = {name: own[name] - left for name, left in (other or {}).items() if name in own}
        name = max(gaps, key=lambda each: gaps[each], default=None)
        if name is not None and over(sign, gaps[name]):
            now = f"{name} leaves {own[name]:.1%}, {how} {own[name] - gaps[name]:.1%}: {why}"
            reasons.append(now + counted(gaps[name]))

    if one_step and iterated:
        (single, single_accuracy), (many, many_accuracy) = _strongest(one_step), _strongest(iterated)
        if over("iterated_minus_one_step", many_accuracy - single_accuracy):
            reasons.append(
                f"{many} leaves {many_accuracy:.1%}, the single step of {single} {single_accuracy:.1%}"
                + counted(many_accuracy - single_accuracy)
            )
    if at_eps_one is not None and over("accuracy_at_eps_one", at_eps_one):
        reasons.append(
            f"accuracy is {at_eps_one:.1%} at eps = {unlimited:g}, where every image is allowed"
            + counted(at_eps_one)
        )
    if white_box and black_box:
        (white, white_accuracy), (black, black_accuracy) = _strongest(white_box), _strongest(black_box)
        if over("black_box_minus_white_box", black_accuracy - white_accuracy):
            reasons.append(f"{black}, without gradients of the model, leaves {black_accuracy:.1%}, "
                           f"the best white-box attack ({white}) {white_accuracy:.1%}"
                           + counted(white_accuracy - black_accuracy))  # fmt: skip
    if cross_entropy is not None and margin is not None:
        apart = cross_entropy - margin
        if over("cross_entropy_minus_margin", apart):
            reasons.append(
                f"PGD leaves {cross_entropy:.1%} with cross-entropy and {margin:.1%} with the margin loss"
                + counted(apart)
            )
    step, float64 = "one_step_minus_half_step", "own_precision_minus_float64"
    beside(step, one_step, half_step, "at half its step", "a longer step finds less")
    both = {**one_step, **iterated}
    beside(float64, both, in_float64, "with its gradient in float64", "rounding hides the way")
    if over("zero_gradients", zero_gradients):
        reasons.append(
            f"{zero_gradients:.1%} of the input gradients are exactly zero" + counted(zero_gradients)
        )
    return MaskingVerdict(bool(reasons), tuple(reasons), measured)
