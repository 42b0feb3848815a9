"""GradNorm (Chen, Badrinarayanan, Lee and Rabinovich 2018, section 3 and Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manyloss import checks
from manyloss.plan import Needs
from manyloss.state import InnerOptimizer, OptimizerFactory, State
from manyloss.weighting._base import LossWeighting
from manyloss.weighting.static import Static

FLOOR = 1e-4


@dataclass
class GradNormState(State):
    """w(t), L(0) (NaN before it was seen), sums of w and counts of steps, all per loss.

    ``recent``: the last values of every loss, newest last, NaN where there was none: ``stuck``'s window.
    """

    weights: list[float]
    initial: list[float]
    sums: list[float]
    counts: list[float]
    recent: list[list[float]]


class GradNorm(LossWeighting):
    """Weights that bring the gradient norms to a common scale and the losses to a common training rate.

    G_i = w_i ||grad_W L_i||_2, r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)),
    L_grad = sum_i |G_i - mean_j(G_j) r_i^alpha| with the target held constant (eq. 1 and 2), so
    dL_grad/dw_i = sign(G_i - target_i) ||grad_W L_i||_2: no double backward.

    The step at t uses w(t); then Adam moves w, which is clamped to 1e-4 and rescaled in place to sum T. The
    weights scale the losses, so the heads see them (Algorithm 1, line "standard gradients"). W is
    ``shared_params``, the last shared layer; without it the norms are those at the features.

    Args:
        alpha: strength of the pull towards one training rate; 0 equalises the norms.
        lr: of the own Adam (section 5.1).
        initial: L(0): "first" for the first step in which a loss is present, or given values such as log C
            for cross-entropy over C classes (footnote 2), as mapping, sequence or one number.
        optimizer: parameters -> Optimizer, in place of Adam.
        stuck: (window, tolerance): a loss whose mean over the last half of ``window`` steps differs from the
            mean over the half before by less than ``tolerance`` of it is stuck: it keeps its weight and
            leaves mean(G) and the rescaling (section 7.2 leaves this open). None: no loss ever is.

    Raises:
        ValueError: a loss or an initial value is 0 or negative, since r^alpha would be meaningless.

    """

    name = "gradnorm"
    accepts = "above 0"
    search: ClassVar = {"alpha": (0.06, 0.12, 0.5, 1.0, 1.5, 3.0), "lr": (0.001, 0.025)}
    needs = Needs(values=True, norms=True)
    learns = GradNormState
    state: GradNormState
    inner: InnerOptimizer

    def __init__(
        self,
        alpha: float = 1.5,
        lr: float = 0.025,
        initial: str | float | Mapping[str, float] | Sequence[float] = "first",
        *,
        optimizer: OptimizerFactory | None = None,
        stuck: tuple[int, float] | None = None,
    ) -> None:
        super().__init__()
        checks.not_negative("alpha", alpha)
        if isinstance(initial, str):
            checks.one_of("initial", initial, ("first",))
        else:
            for each in checks.each(initial):
                checks.finite("initial", each)
        if stuck is not None:
            window, tolerance = checks.pair("stuck", stuck, "(200, 1e-3)")
            checks.whole("window of stuck", window, 2)
            checks.positive("tolerance of stuck", tolerance)
        self.alpha = alpha
        self.initial = initial
        self.stuck = stuck
        self.inner = InnerOptimizer(lr, optimizer)

    def first_state(self, names: tuple[str, ...]) -> GradNormState:
        """w_i(0) = 1."""
        T = len(names)
        initial = [math.nan] * T
        if not isinstance(self.initial, str):
            given = checks.per_loss("GradNorm", "initial", self.initial, names)
            for name, value in given.items():
                checks.positive_loss("GradNorm", name, value, "the initial value")
            initial = [float(value) for value in given.values()]
        window = 0 if self.stuck is None else self.stuck[0]
        recent = [[math.nan] * window for _ in names]
        return GradNormState(
            weights=[1.0] * T, initial=initial, sums=[0.0] * T, counts=[0.0] * T, recent=recent
        )

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """w(t). [T]"""
        return [self.state.weights[i] for i in self.positions(names)]

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """w(t) -> w(t + 1)."""
        w, initial = self.state.weights, self.state.initial
        moving: list[tuple[int, float, float]] = []  # position, L_i, ||grad L_i||
        for i, value, norm in zip(self.positions(names), values.tolist(), norms.tolist(), strict=True):
            if math.isnan(initial[i]):
                initial[i] = value
            self.state.sums[i] += w[i]
            self.state.counts[i] += 1.0
            if not self._is_stuck(i, value):
                moving.append((i, value, norm))
        if not moving:
            return
        at = [i for i, _, _ in moving]
        mean_ratio = sum(value / initial[i] for i, value, _ in moving) / len(moving)
        mean_G = sum(w[i] * norm for i, _, norm in moving) / len(moving)
        slopes = []
        for i, value, norm in moving:
            r = value / initial[i] / mean_ratio
            apart = w[i] * norm - mean_G * r**self.alpha
            slopes.append(math.copysign(norm, apart) if apart else 0.0)
        before = sum(w[i] for i in at)
        self.inner.step_each(w, slopes, at)
        for i in at:
            w[i] = max(w[i], FLOOR)
        scale = before / sum(w[i] for i in at)
        for i in at:
            w[i] *= scale

    def _is_stuck(self, i: int, value: float) -> bool:
        if self.stuck is None:
            return False
        window, tolerance = self.stuck
        recent = self.state.recent[i] = [*self.state.recent[i][1:], value]
        if math.isnan(recent[0]):  # the window is not full yet
            return False
        half = window // 2
        earlier, later = sum(recent[-2 * half : -half]) / half, sum(recent[-half:]) / half
        return abs(later - earlier) <= tolerance * abs(earlier)

    def time_average(self) -> Static:
        """E_t[w_i(t)] over the steps so far, as fixed weights: "GradNorm Static" (section 5.2).

        Raises:
            RuntimeError: there was no step yet.

        """
        if self.names is None or not any(self.state.counts):
            raise RuntimeError("GradNorm.time_average needs at least one step: train first, then ask.")
        sums = zip(self.names, self.state.sums, self.state.counts, strict=True)
        return Static({name: total / count if count else 1.0 for name, total, count in sums})
