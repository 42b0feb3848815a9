"""GradNorm (Chen, Badrinarayanan, Lee and Rabinovich 2018, section 3 and Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manyloss import checks
from manyloss.state import InnerOptimizer, OptimizerFactory
from manyloss.weighting._base import LossWeighting
from manyloss.weighting.static import Static

FLOOR = 1e-4


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

    measures_norms = True

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

    def bind(self, names: tuple[str, ...]) -> None:
        """w_i(0) = 1."""
        initial: dict[str, float] = {}
        if not isinstance(self.initial, str):
            initial = checks.per_loss("GradNorm", "initial", self.initial, names)
            for name, value in initial.items():
                checks.positive_loss("GradNorm", name, value, "the initial value")
        self.memory = {
            "weights": {name: torch.ones((), dtype=torch.float64) for name in names},
            "initial": dict(initial),
            "sums": dict.fromkeys(names, 0.0),
            "counts": dict.fromkeys(names, 0),
            "recent": {name: [] for name in names},
        }

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """w(t). [T]"""
        for name, value in zip(names, values.tolist(), strict=True):
            checks.positive_loss("GradNorm", name, value, "the value")
        return torch.stack([self.memory["weights"][name] for name in names])

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor | None) -> None:
        """w(t) -> w(t + 1)."""
        assert norms is not None
        assert self.inner is not None
        weights, sums, counts = (self.memory[key] for key in ("weights", "sums", "counts"))
        for name, value in zip(names, values.tolist(), strict=True):
            self.memory["initial"].setdefault(name, value)
            sums[name] += float(weights[name])
            counts[name] += 1
        moving = [i for i, name in enumerate(names) if not self._is_stuck(name, float(values[i]))]
        if not moving:
            return
        active = [names[i] for i in moving]
        n = norms[moving]  # [T]
        G = torch.stack([weights[name] for name in active]) * n  # [T]
        initial = torch.tensor([self.memory["initial"][name] for name in active], dtype=torch.float64)
        ratios = values[moving] / initial
        r = ratios / ratios.mean()  # [T]
        target = G.mean() * r**self.alpha  # [T]
        slopes = dict(zip(active, torch.sign(G - target) * n, strict=True))
        before = sum(float(weights[name]) for name in active)
        self.inner.step(list(weights.values()), [slopes.get(name) for name in weights])
        for name in active:
            weights[name].clamp_(min=FLOOR)
        after = sum(float(weights[name]) for name in active)
        for name in active:
            weights[name].mul_(before / after)

    def _is_stuck(self, name: str, value: float) -> bool:
        if self.stuck is None:
            return False
        window, tolerance = self.stuck
        recent = self.memory["recent"][name]
        recent.append(value)
        del recent[:-window]
        if len(recent) < window:
            return False
        half = window // 2
        earlier, later = sum(recent[-2 * half : -half]) / half, sum(recent[-half:]) / half
        return bool(abs(later - earlier) <= tolerance * abs(earlier))

    def time_average(self) -> Static:
        """E_t[w_i(t)] over the steps so far, as fixed weights: "GradNorm Static" (section 5.2).

        Raises:
            RuntimeError: there was no step yet.

        """
        checks.any_step("GradNorm.time_average", self.memory.get("counts", {}))
        sums, counts = self.memory["sums"], self.memory["counts"]
        return Static({name: sums[name] / counts[name] if counts[name] else 1.0 for name in sums})
