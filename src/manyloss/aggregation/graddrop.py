"""GradDrop (Chen et al. 2020, "Just pick a sign", Algorithm 1; appendix A.1 and A.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.aggregation._base import Aggregator
from manyloss.gradients import scale_rows


class GradDrop(Aggregator):
    """At every position one sign is drawn, and gradients of the other sign are dropped there.

    G_i = sgn(A) o grad_A L_i, summed over the batch (lines 7-9); P = (1 + sum G_i / sum |G_i|) / 2 (eq. 1);
    f(p) = clip(k (p - 0.5) + 0.5, 0, 1); one U ~ Uniform(0, 1) per position (line 11);
    M_i = 1(U < f(P)) 1(G_i > 0) + 1(U >= f(P)) 1(G_i < 0) (line 13);
    result = sum_i (l_i + (1 - l_i) M_i) o grad_A L_i, of the raw gradients (line 14).

    Where sum |G_i| = 0 nothing is decided and all pass. Without the batch sum, and at shared parameters,
    sgn(A) is left out: it would cancel in distribution, and A = 0 would drop everything.

    Args:
        leak: l_i in [0, 1], one number or one per loss (mapping or sequence); 1 lets a loss pass whole.
        k: steepness of f, 0 or more; 0 is Random GradDrop.
        sum_over_batch: one decision per position for the whole batch (the paper's from section 4.2 on; needed
            when losses come from separate parts of the batch), or one per example.
        renormalize: scale the result, over all features tensors together, to ||sum_i grad_A L_i||_2.
        seed: of the own generator; drawn from torch's when None.
        activation: any f of Corollary 3.1 (odd around (0.5, 0.5), increasing, within [0, 1]) in place of k.
            What it returns is checked in every step, which waits for the device; the rest of the step waits
            for nothing.

    Raises:
        ValueError: a leak outside [0, 1], a negative k, a leak for other losses; an activation that fails or
            returns something else than probabilities.

    """

    name = "graddrop"
    search: ClassVar = {"leak": (0.0, 0.2, 0.4, 0.6, 0.8), "k": (0.25, 0.5, 1.0, 2.0)}

    def __init__(
        self,
        leak: float | Mapping[str, float] | Sequence[float] = 0.0,
        k: float = 1.0,
        sum_over_batch: bool = True,
        renormalize: bool = False,
        seed: int | None = None,
        *,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        for each in checks.each(leak):
            checks.within("leak", each, 0.0, 1.0)
        checks.not_negative("k", k)
        checks.flag("sum_over_batch", sum_over_batch)
        checks.flag("renormalize", renormalize)
        if activation is not None:
            checks.function("activation", activation, "torch.sigmoid")
        self.leak = leak
        self.k = k
        self.sum_over_batch = sum_over_batch
        self.renormalize = self.keeps_norm = renormalize
        self.positionwise = not renormalize
        self.activation = activation
        self.seed_with(seed)

    def first_state(self, names: tuple[str, ...]) -> None:
        """Every loss has a leak."""
        checks.per_loss("GradDrop", "leak", self.leak, names)

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge per tensor, then restore the norm over all of them, if asked."""
        merged = super().aggregate(gradients, features, names)
        if not self.renormalize:
            return merged
        spread = features[0] is not None
        before = self._square([g.sum(0) for g in gradients], spread)
        after = self._square(merged, spread)
        factor = torch.where(after > 0, (before / after).sqrt(), torch.ones_like(after))
        return [m * factor.to(m.device, m.dtype) for m in merged]

    def _square(self, tensors: Sequence[Tensor], spread: bool) -> Tensor:
        """Sum of squares, on the device: the host does not wait for it."""
        wide = torch.float32 if tensors[0].device.type == "mps" else torch.float64
        square = torch.stack([t.to(wide).square().sum().to(tensors[0].device) for t in tensors]).sum()
        return self.ranks.sum(square) if spread else square

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """[T, B, *F] -> [B, *F], or [T, P] -> [P]"""
        leaks = self._leaks(names)
        if features is None or not self.sum_over_batch:
            return self._merge_numbers(gradients, leaks, spread=features is not None)
        A = features.detach()
        sign = torch.sign(torch.view_as_real(A) if A.is_complex() else A).to(gradients.dtype)
        G = self.ranks.sum((gradients * sign).sum(1))  # [T, *F]
        up, down = G.clamp(min=0.0).sum(0), G.clamp(max=0.0).sum(0)
        kept = torch.where(self._is_positive(up, down, spread=False), G, -G) > 0
        mask = (kept | (up == down)).to(gradients.dtype)  # equal where nothing is decided: both are 0
        if any(leaks):
            mask = mask + scale_rows(1.0 - mask, leaks)
        return (mask.unsqueeze(1) * gradients).sum(0)

    def _merge_numbers(self, gradients: Tensor, leaks: list[float], spread: bool) -> Tensor:
        """Where each number is decided by itself, all of one sign are kept at once: [T, ...] -> [...]."""
        up, down = gradients.clamp(min=0.0).sum(0), gradients.clamp(max=0.0).sum(0)
        positive = self._is_positive(up, down, spread)
        if not any(leaks):
            return torch.where(positive, up, down)
        leaked = scale_rows(gradients, leaks)
        rest = gradients - leaked
        up, down = rest.clamp(min=0.0).sum(0), rest.clamp(max=0.0).sum(0)
        return torch.where(positive, up, down) + leaked.sum(0)

    def _is_positive(self, up: Tensor, down: Tensor, spread: bool) -> Tensor:
        """f(P) > U, from the sums of what is above and below 0.

        A pure sign passes whole: f(1) = 1 > U always, and U >= 0 = f(0) always.
        """
        U = self._draw(up, spread)
        total, size = up + down, up - down
        if self.activation is None:  # k (P - 1/2) + 1/2 > U, times twice the size; the clip changes nothing
            return self.k * total > U.mul_(2.0).sub_(1.0).mul_(size)
        P = 0.5 + 0.5 * (total / torch.where(size > 0, size, torch.ones_like(size)))
        return self._probability(self.activation, P) > U

    def _leaks(self, names: Sequence[str]) -> list[float]:
        """l_i of the losses present; the settings speak of all losses, if there was a first step."""
        every = self.names if self.names is not None and set(names) <= set(self.names) else names
        leaks = checks.per_loss("GradDrop", "leak", self.leak, every)
        return [float(leaks[name]) for name in names]

    @staticmethod
    def _probability(activation: Callable[[Tensor], Tensor], P: Tensor) -> Tensor:
        """f(P), the probability that the positive sign is kept, with f of the user."""
        try:
            probability = activation(P)
        except Exception as error:
            raise ValueError(
                f"GradDrop: activation= failed on purities of shape {list(P.shape)} with "
                f"{type(error).__name__}: {error}. It takes a tensor of numbers in [0, 1] and returns one of "
                "the same shape."
            ) from error
        if not isinstance(probability, Tensor) or probability.shape != P.shape:
            got = (
                f"shape {list(probability.shape)}"
                if isinstance(probability, Tensor)
                else f"a {type(probability).__name__}"
            )
            raise ValueError(
                f"GradDrop: activation= must return a tensor of the shape it was given, {list(P.shape)}; "
                f"received {got}. Use functions that work element by element."
            )
        inside = (probability >= 0) & (probability <= 1)
        if not bool(inside.all()):
            low, high = probability.amin().item(), probability.amax().item()
            raise ValueError(
                "GradDrop: activation= must return probabilities, numbers in [0, 1]; received numbers from "
                f"{low:g} to {high:g}. Clamp what it returns."
            )
        return probability

    def _draw(self, like: Tensor, spread: bool) -> Tensor:
        """U, the same on all ranks; one decision per example takes this rank's part of the global batch."""
        shape, start = like.shape, 0
        if spread and self.ranks.world > 1:
            sizes = self.ranks.gather_sizes(like.shape[0])
            start = sum(sizes[: self.ranks.rank])
            shape = torch.Size((sum(sizes), *like.shape[1:]))
        drawn = torch.rand(shape, generator=self.generator, dtype=like.dtype, device="cpu")
        if shape != like.shape:
            drawn = drawn[start : start + like.shape[0]]
        return drawn.to(like.device, non_blocking=True)
