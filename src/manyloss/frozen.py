"""``multi.frozen``: one function for a line search, whose closure is called again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from manyloss.checks import listed
from manyloss.plan import Needs
from manyloss.strategies.plain import run

if TYPE_CHECKING:
    from manyloss.step_methods import Methods
    from manyloss.strategies import Outcome, Step


class Frozen:
    """The weights of the first step within ``multi.frozen()``, which all later ones write.

    Attributes:
        weights: by loss; None before the first step.

    """

    def __init__(self) -> None:
        self.weights: dict[str, float] | None = None

    def check_one_function(self, step: Step, needs: Needs) -> None:
        """Refuse a first step that would not write the gradient of sum_i w_i L_i.

        Args:
            step: that is about to run.
            needs: of the methods.

        Raises:
            ValueError: some parameters would get the plain gradient, others the weighted one.

        """
        if not needs.replaces:
            return
        others = [leaf for leaf in step.others if isinstance(leaf, nn.Parameter)]
        if step.features or others:
            where = "what arrives at the features" if step.features else "the shared parameters"
            who = f", and not {len(others)} others (the largest {_largest(others)})" if others else ""
            raise ValueError(
                f"Within multi.frozen() every step is the gradient of one function, and "
                f"{type(step.weighting).__name__} weighs only {where}{who}: pass shared_params= with all "
                "the parameters that are trained, without features."
            )

    def refuse_total(self) -> None:
        """A total's value is the plain sum, before any weight is known.

        Raises:
            RuntimeError: always.

        """
        raise RuntimeError(
            "The value of multi.total is the plain sum of the losses, and a line search, within "
            "multi.frozen(), needs that of the weighted one: return multi.backward(losses, ...).weighted_sum "
            "from the closure."
        )

    def hold(self, names: Sequence[str], outcome: Outcome) -> None:
        """Keep what the first step was weighted with."""
        self.weights = dict(zip(names, outcome.weights, strict=True))

    def step(self, step: Step) -> Outcome:
        """Write the gradient of the same weighted sum; nothing is measured, nothing learns.

        Raises:
            ValueError: a loss was absent in the first step, so it has no weight.

        """
        held = self.weights or {}
        new = [name for name in step.names if name not in held]
        if new:
            raise ValueError(
                f"Within multi.frozen() the weights are those of the first step, and {listed(new)} "
                f"{'was' if len(new) == 1 else 'were'} absent in it: give the same losses in every call."
            )
        step.weights = [held[name] for name in step.names]
        return run(step)


def refuse_other_functions(methods: Methods, rescale: str) -> None:
    """Only a weighted sum of the losses can be held.

    Raises:
        ValueError: an aggregator, a penalty or a rescaling has its part in what is written.

    """
    others = [type(penalty).__name__ for penalty in methods.penalties]
    if methods.aggregator.needs.gradients:
        others.append(type(methods.aggregator).__name__)
    if rescale != "none":
        others.append(f"rescale={rescale!r}")
    if others:
        raise ValueError(
            f"multi.frozen() holds one weight per loss, and with {', '.join(others)} a step does not write "
            "the gradient of a fixed weighted sum of the losses, which a line search needs: use a MultiLoss "
            "with a weighting alone in this phase."
        )


def _largest(params: Sequence[Tensor]) -> list[int]:
    return list(max(params, key=Tensor.numel).shape)
