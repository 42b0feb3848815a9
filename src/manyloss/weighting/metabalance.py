"""MetaBalance (He et al. 2022, "MetaBalance: improving multi-task recommendations", Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from manyloss import checks
from manyloss.gradients import LossGradients
from manyloss.plan import Needs
from manyloss.state import State
from manyloss.weighting._base import GradientWeighting

STRATEGIES = ("both", "shrink", "grow")


@dataclass
class MetaBalanceState(State):
    """Discounted sums of the gradients' norms and of the steps that they come from; the target's position."""

    norms: list[float]
    steps: list[float]
    target: int


class MetaBalance(GradientWeighting):
    """Auxiliary gradients as long as the target's, or on the way there.

    m_i <- beta m_i + (1 - beta) ||g_i||; w_i = relax m_target / m_i + 1 - relax, and w_target = 1. The paper
    does so layer by layer; here all of the shared part is one.

    Args:
        target: the loss that counts; the first one when None.
        relax: in [0, 1]; 1 gives all gradients the target's length, 0 changes nothing.
        beta: of the moving averages, in [0, 1).
        strategy: "both" (the paper's C), "shrink" only longer gradients than the target's (A), or "grow" only
            shorter ones (B).

    Raises:
        ValueError: at the first step, no loss has the target's name.

    """

    name = "metabalance"
    needs = Needs(norms=True, replaces=True)
    search: ClassVar = {"relax": (0.2, 0.5, 0.7, 1.0), "strategy": STRATEGIES}
    learns = MetaBalanceState
    state: MetaBalanceState

    def __init__(
        self,
        target: str | None = None,
        relax: float = 0.7,
        beta: float = 0.9,
        strategy: Literal["both", "shrink", "grow"] = "both",
    ) -> None:
        super().__init__()
        checks.name_of_a_loss("target", target)
        checks.within("relax", relax, 0.0, 1.0)
        checks.within("beta", beta, 0.0, math.nextafter(1.0, 0.0))
        checks.one_of("strategy", strategy, STRATEGIES)
        self.target, self.relax, self.beta, self.strategy = target, relax, beta, strategy

    def first_state(self, names: tuple[str, ...]) -> MetaBalanceState:
        """No norm seen yet."""
        if self.target is not None:
            checks.one_of("target of MetaBalance", self.target, names)
        position = 0 if self.target is None else names.index(self.target)
        return MetaBalanceState([0.0] * len(names), [0.0] * len(names), position)

    def forward(self, gradients: LossGradients) -> list[float]:
        """Relax m_target / m_i + 1 - relax. [T]"""
        state, at = self.state, self.positions(gradients.names)
        norms, steps = list(state.norms), list(state.steps)
        for i, norm in zip(at, gradients.norms.tolist(), strict=True):
            norms[i] = self.beta * norms[i] + (1.0 - self.beta) * norm
            steps[i] = self.beta * steps[i] + (1.0 - self.beta)
        self.pending = replace(state, norms=norms, steps=steps)
        # The quotient is the average as published, also for a loss that comes later than the target.
        m = [norm / step if step else 0.0 for norm, step in zip(norms, steps, strict=True)]
        return [self._weight(m[i], m[state.target]) if i != state.target else 1.0 for i in at]

    def _weight(self, norm: float, goal: float) -> float:
        left_alone = {"both": False, "shrink": norm <= goal, "grow": norm >= goal}[self.strategy]
        if norm == 0.0 or goal == 0.0 or left_alone:
            return 1.0
        return self.relax * (goal / norm) + 1.0 - self.relax
