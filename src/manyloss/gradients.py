"""Read: one gradient per loss at the features or at shared parameters.

Axis letters: T losses, B batch, F features, P shared parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from manyloss import checks, linalg
from manyloss.distributed import ALONE, Ranks

Place = Literal["features", "shared_params"]
Root = Tensor | GradientEdge


class LossGradients:
    """Unweighted gradients of the losses at one place, and what is measured on them.

    Attributes:
        names: the T losses present in this step, in the order of the first call.
        values: [T] losses, float64 on the CPU, averaged over the ranks.
        tensors: gradients, one tensor [T, B, *F] per features tensor, or one [T, P]; this rank's batch at
            features, averaged over the ranks at shared parameters. float32, or float64 if that is what came.
        place: ``"features"`` or ``"shared_params"``.

    """

    def __init__(
        self,
        names: Sequence[str],
        values: Tensor,
        tensors: Sequence[Tensor],
        place: Place = "features",
        ranks: Ranks = ALONE,
    ) -> None:
        self.names = tuple(names)
        self.values = values
        self.place = place
        self.ranks = ranks
        # A mean over the ranks' losses puts 1/N before the gradient of each rank's own batch.
        self.spread = ranks if place == "features" else ALONE
        self.tensors = tuple(tensors)

    @classmethod
    def of(cls, gradients: Tensor, values: Tensor | None = None) -> LossGradients:
        """Gradients [T, ...] at hand, for the use of a method alone; the losses are named "0", "1", ..."""
        T = gradients.shape[0]
        known = torch.ones(T) if values is None else values
        return cls([str(i) for i in range(T)], known.detach().double().cpu(), [gradients])

    @cached_property
    def finite(self) -> list[bool]:
        """Per loss, whether all its entries are finite, on every rank."""
        if self.measured:
            return torch.isfinite(self.norms).tolist()
        bad = (~torch.isfinite(linalg.row_scales(self.tensors))).double().cpu()
        return [b == 0 for b in self.ranks.sum(bad).tolist()]

    @cached_property
    def gramian(self) -> Tensor:
        """<g_i, g_j> over all features tensors and all ranks' batches. [T, T], float64, CPU."""
        return self.spread.sum(linalg.gramian(self.tensors)) / self.spread.world**2

    @cached_property
    def norms(self) -> Tensor:
        """||g_i||_2 over all features tensors and all ranks' batches. [T], float64, CPU."""
        if self.measured:
            return self.gramian.diagonal().clamp(min=0.0).sqrt()
        return self.spread.sum(linalg.row_norms(self.tensors) ** 2).sqrt() / self.spread.world

    @cached_property
    def cosines(self) -> Tensor:
        """Pairwise cosines, 0 for a zero gradient. [T, T], float64, CPU."""
        return linalg.cosines(self.gramian)

    @property
    def measured(self) -> bool:
        """Whether the Gramian was formed, by whoever needed it."""
        return "gramian" in self.__dict__

    def combine(self, weights: Tensor) -> list[Tensor]:
        """sum_i w_i g_i per tensor: [B, *F] or [P]."""
        return [torch.tensordot(weights.to(t.device, t.dtype), t, dims=1) for t in self.tensors]

    def weighted(self, weights: Tensor) -> list[Tensor]:
        """w_i g_i per tensor: [T, B, *F] or [T, P]."""
        return [scale_rows(tensor, weights) for tensor in self.tensors]

    def detach(self) -> LossGradients:
        """The same gradients without their graph."""
        tensors = [tensor.detach() for tensor in self.tensors]
        return LossGradients(self.names, self.values, tensors, self.place, self.ranks)


def scale_rows(rows: Tensor, factors: Tensor) -> Tensor:
    """Rows [T, ...] times one factor each; untouched where all factors are 1."""
    if bool((factors == 1).all()):
        return rows
    return rows * factors.to(rows.device, rows.dtype).view(-1, *[1] * (rows.dim() - 1))


def read_losses(
    losses: Sequence[Root | None],
    names: Sequence[str],
    features: Sequence[Root],
    feature_tensors: Sequence[Tensor],
    params: Sequence[Tensor],
    scale: Tensor | None = None,
    create_graph: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """One ``autograd.grad`` per loss, with the graph kept: the read of the hook path.

    Args:
        losses: T roots; None stands for a loss that another rank has and this one has not (a zero row).
        names: of the losses, for errors.
        features: the edges to read at.
        feature_tensors: the tensors there.
        params: shared parameters to read at, too.
        scale: what the losses are multiplied with before the read and divided by after it, in float32.
        create_graph: keep the gradients differentiable, for penalties.

    Returns:
        per features tensor [T, B, *F], and a list of one [T, P], empty without ``params``.

    Raises:
        ValueError: a loss reaches none of the features, or none of the shared parameters.
        RuntimeError: a compiled module has given its buffers away, or a reentrant checkpoint is in the way.

    """
    at_features: list[list[Tensor]] = [[] for _ in features]
    at_params: list[Tensor] = []
    device = (feature_tensors or params)[0].device
    for root, name in zip(losses, names, strict=True):
        grads: list[Tensor | None] = [None] * (len(features) + len(params))
        if root is not None:
            roots: list[Any] = [root]  # torch takes tensors and edges together, its types say otherwise
            inputs: list[Any] = [*features, *params]
            with checks.reading(name):
                grads = list(
                    torch.autograd.grad(
                        roots,
                        inputs,
                        [seed_of(root, device, scale)],
                        retain_graph=True,
                        create_graph=create_graph,
                        allow_unused=True,
                    )
                )
            checks.reaches(name, grads[: len(features)], "features")
            checks.reaches(name, grads[len(features) :], "shared_params")
        for row, grad, tensor in zip(at_features, grads, feature_tensors, strict=False):
            row.append(_unscaled(grad, tensor, scale))
        if params:
            at_params.append(flat_row(grads[len(features) :], params, scale))
    return [torch.stack(row) for row in at_features], [torch.stack(at_params)] if params else []


def seed_of(root: Root, device: torch.device, factor: Tensor | float | None) -> Tensor:
    """What a backward starts with at a loss: ``factor``, in the loss's own type and shape."""
    number = 1.0 if factor is None else float(factor)
    dtype = root.dtype if isinstance(root, Tensor) else torch.float64  # the engine casts to an edge's type
    return torch.tensor(number, dtype=dtype, device=device)


def flat_row(grads: Sequence[Tensor | None], params: Sequence[Tensor], scale: Tensor | None = None) -> Tensor:
    """One loss's gradient at all the parameters, zero where it has none. [P]"""
    parts = zip(grads, params, strict=True)
    return torch.cat([_unscaled(grad, param, scale).flatten() for grad, param in parts])


def _unscaled(grad: Tensor | None, like: Tensor, scale: Tensor | None) -> Tensor:
    if grad is None:
        return torch.zeros_like(full_precision(like.detach()))
    full = full_precision(grad)
    return full if scale is None else full / scale.to(full.dtype)


def full_precision(tensor: Tensor) -> Tensor:
    """float32 for half and bfloat16; anything else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
