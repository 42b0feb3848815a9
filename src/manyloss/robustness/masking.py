"""Whether a defense only hides its gradients: the verdict that stands beside every accuracy.

A masked model looks robust because gradient attacks get lost, not because there is nothing to find (Athalye
et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ITERATED_WORSE = 0.01
ACCURACY_AT_EPS_ONE = 0.05
BLACK_BOX_BETTER = 0.01
LOSSES_APART = 0.02
ZERO_GRADIENTS = 0.10
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
    examples: int | None = None,
) -> MaskingVerdict:
    """Apply the fixed thresholds of this module to accuracies in [0, 1].

    one_step, iterated: accuracy by attack, all untargeted with cross-entropy. white_box, black_box: all
    untargeted ones. cross_entropy, margin: the same PGD with either loss. at_eps_one: under the strongest
    attack with the whole cube allowed. zero_gradients: share of examples whose input gradient is exactly
    zero. What is empty or None is not tested. examples: how many images these are shares of; each reason then
    says how many speak for it, since two points of few images are noise.
    """
    reasons: list[str] = []
    measured: dict[str, float] = {}

    def counted(share: float) -> str:
        return "" if examples is None else f" ({round(abs(share) * examples)} of {examples} images)"

    if one_step and iterated:
        (single, single_accuracy), (many, many_accuracy) = _strongest(one_step), _strongest(iterated)
        measured["iterated_minus_one_step"] = many_accuracy - single_accuracy
        if many_accuracy > single_accuracy + ITERATED_WORSE + ROUNDING:
            reasons.append(
                f"{many} leaves {many_accuracy:.1%}, the single step of {single} {single_accuracy:.1%}"
                + counted(many_accuracy - single_accuracy)
            )
    if at_eps_one is not None:
        measured["accuracy_at_eps_one"] = at_eps_one
        if at_eps_one > ACCURACY_AT_EPS_ONE + ROUNDING:
            reasons.append(
                f"accuracy is {at_eps_one:.1%} at eps = 1, where every image is allowed" + counted(at_eps_one)
            )
    if white_box and black_box:
        (white, white_accuracy), (black, black_accuracy) = _strongest(white_box), _strongest(black_box)
        measured["black_box_minus_white_box"] = black_accuracy - white_accuracy
        if black_accuracy < white_accuracy - BLACK_BOX_BETTER - ROUNDING:
            reasons.append(f"{black}, without gradients of the model, leaves {black_accuracy:.1%}, "
                           f"the best white-box attack ({white}) {white_accuracy:.1%}"
                           + counted(white_accuracy - black_accuracy))  # fmt: skip
    if cross_entropy is not None and margin is not None:
        measured["cross_entropy_minus_margin"] = cross_entropy - margin
        if abs(cross_entropy - margin) > LOSSES_APART + ROUNDING:
            reasons.append(
                f"PGD leaves {cross_entropy:.1%} with cross-entropy and {margin:.1%} with the margin loss"
                + counted(cross_entropy - margin)
            )
    measured["zero_gradients"] = zero_gradients
    if zero_gradients > ZERO_GRADIENTS + ROUNDING:
        reasons.append(
            f"{zero_gradients:.1%} of the input gradients are exactly zero" + counted(zero_gradients)
        )
    return MaskingVerdict(bool(reasons), tuple(reasons), measured)
