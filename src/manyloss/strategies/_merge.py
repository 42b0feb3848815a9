"""Weigh and aggregate: what all strategies that read do with the gradients, once they have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyloss import precision
from manyloss.checks import listed
from manyloss.distributed import Ranks
from manyloss.errors import BatchSeparatedError, NotFiniteError
from manyloss.gradients import ListedGradients, LossGradients, as_real, scale_rows
from manyloss.linalg import plain, row_norms
from manyloss.strategies._step import Outcome, Step

LARGEST_RESCALE = 100.0
LARGEST_SURE = 1e36
"""Below it, times a rescale, every number fits float32."""


@dataclass
class Merged(Outcome):
    """An outcome, with what is to be written: one tensor per place, None where the plain sum stays.

    At the features, and at parameters that are written by a backward, they are real and in full precision; at
    listed parameters they have the parameters' own form, and are None where no loss arrives.
    """

    tensors: Sequence[Tensor | None] | None = None


def merge(step: Step, gradients: LossGradients, measured: LossGradients | None) -> Merged:
    """Weigh and aggregate at one place; nothing is written here.

    Raises:
        NotFiniteError: what was read or merged is not finite, and no scaler skips the step.
        BatchSeparatedError: a method would take inner products at the features as evidence that are none.

    """
    merged = Merged(step.weights, measured, gradients)
    if measured is not None and not check_measured(step, measured, merged):
        return merged
    if step.plan.merged_at is None:
        return merged
    found = None if measured is None else step.weighting.weigh_gradients(measured)
    weights = merged.weights = step.weights if found is None else plain(found)
    wanted = gradients.gramian.sum().clamp(min=0.0).sqrt() if step.rescale == "sum_norm" else None
    if step.aggregator.needs.gradients:
        merged.tensors = _aggregate(step, gradients, weights)
    else:
        merged.tensors = gradients.combine(weights)
    if wanted is not None:
        merged.tensors = _to_norm(float(wanted), merged.tensors, gradients.spread)
    if not (_is_bounded(step, merged) or _all_finite(step, merged.tensors)):
        return _not_finite(step, gradients, merged)
    return merged


def check_measured(step: Step, measured: LossGradients, merged: Merged) -> bool:
    """Whether methods may use what was measured; if not, the step is left to the scaler.

    Raises:
        NotFiniteError, BatchSeparatedError: as in `merge`.

    """
    if not _is_finite(step, measured):
        _not_finite(step, measured, merged)
        merged.skipped = True
        return False
    merged.separated = _separated(step, measured)
    return True


def _aggregate(step: Step, gradients: LossGradients, weights: Sequence[float]) -> Sequence[Tensor | None]:
    """Through the aggregator: [T, B, *F] and features, or [T, P] and None."""
    aggregator, names = step.aggregator, step.names
    with torch.autocast(step.device.type, enabled=False):
        if isinstance(gradients, ListedGradients):
            return gradients.rows.merge(
                lambda rows: aggregator.aggregate([_weighted(rows, weights)], [None], names)[0].detach(),
                at_once=not aggregator.positionwise,
            )
        rows = [_weighted(tensor, weights) for tensor in gradients.tensors]
        if gradients.place == "features":
            features = [as_real(tensor.detach()) for tensor in step.features]
            return [tensor.detach() for tensor in aggregator.aggregate(rows, features, names)]
        merged = aggregator.aggregate(rows, [None], names)[0].detach()
    likes = [as_real(param.detach()) for param in step.params]
    parts = torch.split(merged, [like.numel() for like in likes])
    return [part.view(like.shape) for part, like in zip(parts, likes, strict=True)]


def _weighted(rows: Tensor, weights: Sequence[float]) -> Tensor:
    return rows if all(weight == 1.0 for weight in weights) else scale_rows(rows, weights)


def _to_norm(wanted: float, tensors: Sequence[Tensor | None], spread: Ranks) -> list[Tensor | None]:
    """Scale to ||sum_i g_i||, by 100 at most; zero stays zero."""
    square = row_norms([part.unsqueeze(0) for part in _real(tensors)]).square()
    norm = float(spread.sum(square).sqrt() / spread.world)
    factor = min(wanted / norm, LARGEST_RESCALE) if norm > 0 else 0.0
    return [None if tensor is None else tensor * factor for tensor in tensors]


def _real(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """The numbers that the tensors hold."""
    there = [tensor.detach() for tensor in tensors if tensor is not None and tensor.numel()]
    return [as_real(t.coalesce().values() if t.layout == torch.sparse_coo else t) for t in there]


# ---------------------------------------------------------------- what is not finite


def _is_finite(step: Step, measured: LossGradients) -> bool:
    """Whether what a method is about to use is; from the numbers that are there anyway."""
    if step.plan.norms and not math.isfinite(sum(measured.norms.tolist())):
        return False
    if step.plan.gramian:
        return math.isfinite(sum(row[i] for i, row in enumerate(measured.products)))
    return step.plan.norms or all(measured.finite_rows())


def _is_bounded(step: Step, merged: Merged) -> bool:
    """Whether ||sum_i w_i g_i|| <= sum_i |w_i| ||g_i|| shows, without a look at it, that it is finite."""
    if merged.measured is None or merged.measured is not merged.gradients:
        return False
    if not step.plan.gramian or step.aggregator.needs.gradients:
        return False
    bound = sum(
        abs(weight) * math.sqrt(max(row[i], 0.0))
        for i, (weight, row) in enumerate(zip(merged.weights, merged.measured.products, strict=True))
    )
    return bound < LARGEST_SURE


def _all_finite(step: Step, tensors: Sequence[Tensor | None]) -> bool:
    """Whether what is written is finite, on every rank; on a device that is not waited for, ask later."""
    if step.ranks.world == 1 and precision.has_to_be_waited_for(step.device) and not step.scale.skips:
        step.deferred.append(torch.stack([torch.isfinite(part).all() for part in _real(tensors)]).all())
        return True
    largest = [torch.linalg.vector_norm(part, ord=math.inf) for part in _real(tensors) if part.numel()]
    return step.ranks.all(all(math.isfinite(value.tolist()) for value in largest))


def _not_finite(step: Step, gradients: LossGradients, merged: Merged) -> Merged:
    """Leave the step to the scaler, or name the loss.

    Raises:
        NotFiniteError: there is no scaler to skip the step.

    """
    if step.scale.skips:
        return Merged(step.weights, merged.measured, gradients, skipped=True)
    advice = "nothing was written. With float16, pass grad_scaler= so that such steps are skipped."
    for name, good in zip(step.names, gradients.finite_rows(), strict=True):
        if not good:
            raise NotFiniteError(
                f"The gradient of loss {name!r} at the {gradients.place} is not finite: {advice}"
            )
    raise NotFiniteError(
        f"The merged gradient at the {gradients.place} is not finite, though each loss's gradient is "
        f"(weights {', '.join(f'{float(w):.3g}' for w in merged.weights)}): {advice}"
    )


# ---------------------------------------------------------------- losses on separate parts of the batch


def _separated(step: Step, measured: LossGradients) -> Tensor | None:
    """Pairs of losses that come from separate rows of the features; None if there are none.

    Raises:
        BatchSeparatedError: a method would take their inner products as evidence.

    """
    if measured.place != "features" or not step.plan.gramian or len(step.names) == 1:
        return None
    if not (step.look_closely or _some_are_orthogonal(measured.products)):
        return None
    separated = measured.separated()
    pairs = separated.nonzero().tolist()
    if not pairs:
        return None
    if step.plan.refuse_separated:
        i, j = pairs[0]
        raise BatchSeparatedError(
            f"Losses {listed([step.names[i], step.names[j]])} come from separate rows of the batch (one "
            "batch per task, or partial labels): their gradients at the features are orthogonal by "
            "construction, which says nothing about conflict, so "
            f"{type(step.weighting).__name__} cannot weigh them there. Nothing was written. Measure at "
            "parameters with shared_params= (a module of the encoder, such as its last layer), or at the "
            'virtual layer of the features with MultiLoss(..., measure_at="virtual_layer").'
        )
    return separated


def _some_are_orthogonal(G: list[list[float]]) -> bool:
    """Whether two gradients that are not zero have an inner product of exactly 0."""
    alive = [i for i in range(len(G)) if G[i][i] > 0.0]
    return any(G[i][j] == 0.0 for i in alive for j in alive if i < j)
