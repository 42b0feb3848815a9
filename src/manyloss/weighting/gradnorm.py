"""GradNorm (Chen, Badrinarayanan, Lee and Rabinovich 2018, section 3 and Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from manyloss import checks
from manyloss.plan import Needs
from manyloss.state import InnerOptimizer, OptimizerFactory, State
from manyloss.weighting._base import LossWeighting
from manyloss.weighting.static import Static

FLOOR = 1e-4


@dataclass
class GradNormState(State):
    """w(t), L(0) (NaN before it was seen), sums of w and counts of steps. [T] each

    ``recent``: the last values of every loss, newest last, NaN where there was none. [T, window of ``stuck``]
    """

    weights: Tensor
    initial: Tensor
    sums: Tensor
    counts: Tensor
    recent: Tensor


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
    search: ClassVar = {"alpha": (0.06, 0.12, 0.5, 1.0, 1.5, 3.0)}
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
        if stuck is not None:
            checks.positive("stuck window", stuck[0] - 1)
            checks.positive("stuck tolerance", stuck[1])
        self.alpha = alpha
        self.initial = initial
        self.stuck = stuck
        self.inner = InnerOptimizer(lr, optimizer)

    def first_state(self, names: tuple[str, ...]) -> GradNormState:
        """w_i(0) = 1."""
        ones = torch.ones(len(names), dtype=torch.float64, device="cpu")
        initial = torch.nan * ones
        if not isinstance(self.initial, str):
            given = checks.per_loss("GradNorm", "initial", self.initial, names)
            for name, value in given.items():
                checks.positive_loss("GradNorm", name, value, "the initial value")
            initial = torch.tensor(list(given.values()), dtype=torch.float64, device="cpu")
        window = 0 if self.stuck is None else self.stuck[0]
        recent = torch.full((len(names), window), torch.nan, dtype=torch.float64, device="cpu")
        return GradNormState(weights=ones, initial=initial, sums=0 * ones, counts=0 * ones, recent=recent)

    def check(self, names: Sequence[str], values: Tensor | None) -> None:
        """Every loss is above 0."""
        assert values is not None
        for name, value in zip(names, values.tolist(), strict=True):
            checks.positive_loss("GradNorm", name, value, "the value")

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """w(t). [T]"""
        return self.state.weights[self.positions(names)]

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """w(t) -> w(t + 1)."""
        at = np.array(self.positions(names))
        weights, initial = self.state.weights.numpy(), self.state.initial.numpy()  # the same memory
        initial[at] = np.where(np.isnan(initial[at]), values.numpy(), initial[at])
        self.state.sums.numpy()[at] += weights[at]
        self.state.counts.numpy()[at] += 1.0
        moves = ~self._stuck(at, values.numpy())
        at, L, n = at[moves], values.numpy()[moves], norms.numpy()[moves]  # [T] of those that move
        if not len(at):
            return
        G = weights[at] * n
        ratios = L / initial[at]
        r = ratios / ratios.mean()
        target = G.mean() * r**self.alpha
        slopes = np.sign(G - target) * n
        before = weights[at].sum()
        self.inner.step_each(self.state.weights, torch.from_numpy(slopes), at.tolist())
        weights[at] = np.maximum(weights[at], FLOOR)
        weights[at] *= before / weights[at].sum()

    def _stuck(self, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Which of the losses present do not move any more. [T]"""
        if self.stuck is None:
            return np.zeros(len(at), dtype=bool)
        window, tolerance = self.stuck
        recent = self.state.recent.numpy()
        recent[at] = np.concatenate([recent[at, 1:], values[:, None]], axis=1)
        half = window // 2
        earlier = recent[at, window - 2 * half : window - half].mean(1)
        later = recent[at, window - half :].mean(1)
        full = ~np.isnan(recent[at]).any(1)
        return np.asarray(full & (np.abs(later - earlier) <= tolerance * np.abs(earlier)))

    def time_average(self) -> Static:
        """E_t[w_i(t)] over the steps so far, as fixed weights: "GradNorm Static" (section 5.2).

        Raises:
            RuntimeError: there was no step yet.

        """
        if self.names is None or not bool(self.state.counts.any()):
            raise RuntimeError("GradNorm.time_average needs at least one step: train first, then ask.")
        means = torch.where(self.state.counts > 0, self.state.sums / self.state.counts, 1.0)
        return Static(dict(zip(self.names, means.tolist(), strict=True)))
