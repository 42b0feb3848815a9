"""Read each loss apart, then write in one ordinary backward. Always right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from manyloss import graph
from manyloss.distributed import mean_over_ranks
from manyloss.gradients import LossGradients, read_losses
from manyloss.strategies._merge import merge
from manyloss.strategies._step import Outcome, Step
from manyloss.strategies.plain import pass_on
from manyloss.writing import Replace, Undo, hooked


def run(step: Step) -> Outcome:
    """Read, penalise, merge, write."""
    gradients, measured = _read(step)
    penalties: dict[str, Tensor] = {}
    if step.plan.differentiable:
        penalties = _penalise(step, measured or gradients)
        gradients, measured = gradients.detach(), None if measured is None else measured.detach()
    merged = merge(step, gradients, measured)
    if merged.skipped:
        return pass_on(step)
    objective = _sum_of([penalty for penalty in penalties.values() if penalty.requires_grad])
    undo = Undo(step.walk.leaves)
    try:
        if merged.tensors is None:
            step.backward(objective)
        else:
            places = step.features or step.params
            edges = step.edges or [graph.edge_of(param) for param in step.params]
            plain = step.plain_sums(gradients)
            own = _own(step, None if plain else objective, places)
            put = Replace(_shared(step, merged.tensors), own, step.scale, plain)
            with hooked(places, edges, put):
                step.backward(objective)
    except BaseException:
        undo.put_back()
        raise
    merged.penalties = penalties
    return merged


def _read(step: Step) -> tuple[LossGradients, LossGradients | None]:
    """The gradients where they are merged, and where they are measured."""
    plan = step.plan
    at_params = plan.measured_at == "shared_params" or not step.features
    at_features = bool(step.features) and (plan.merged_at is not None or not at_params)
    if plan.differentiable:
        _refuse_once_only(step)
    read = partial(
        read_losses,
        step.roots,
        step.names,
        scale=step.scale,
        refuse=partial(_refuse_missing, step) if plan.differentiable else None,
    )
    ends, there = (graph.roots_of(step.edges), step.features) if at_features else ([], [])
    with graph.reads_only(step.roots, [*step.features, *step.params]):
        if (
            step.nested and at_features
        ):  # what the losses send to each directly, and what params get through all
            with graph.severed(step.edges):
                at, _ = read(ends, there, [])
            _, behind = read([], [], step.params) if at_params else ([], [])
        else:
            at, behind = read(ends, there, step.params if at_params else [])
    params = step.gradients([mean_over_ranks(part, step.ranks) for part in behind], "shared_params")
    if not at_features:
        return params, params if plan.measured_at == "shared_params" else None
    gradients = step.gradients(at, "features")
    return gradients, params if at_params else step.measured_from(gradients)


def _shared(step: Step, merged: Sequence[Tensor | None]) -> list[Tensor]:
    """At parameters that not all ranks reach, DDP's mean divides by those that do not, too."""
    there = [part for part in merged if part is not None]  # a part per place: rows were stacked
    if step.features or step.ranks.world == 1:
        return there
    shares = step.ranks.shares(step.walk.reaches(step.params))
    return [part * share for part, share in zip(there, shares, strict=True)]


# ---------------------------------------------------------------- penalties


def _penalise(step: Step, gradients: LossGradients) -> dict[str, Tensor]:
    """The penalties, named by their classes; the second of one class is "CosReg 2"."""
    _check_still_there(step)
    penalties: dict[str, Tensor] = {}
    for penalty in step.penalties:
        name = type(penalty).__name__
        again = sum(known.partition(" ")[0] == name for known in penalties)
        with torch.autocast(step.device.type, enabled=False):
            penalties[f"{name} {again + 1}" if again else name] = penalty(gradients)
    return penalties


def _own(step: Step, objective: Tensor | None, places: Sequence[Tensor]) -> list[Tensor | None]:
    """The penalties' own gradient where the merged one is put, which joins it there."""
    if objective is None:
        return [None] * len(places)
    ends = graph.roots_of(step.edges) if step.features else list(places)
    with graph.reads_only(step.roots, places):
        return list(torch.autograd.grad(objective, ends, retain_graph=True, allow_unused=True))


def _sum_of(tensors: Sequence[Tensor]) -> Tensor | None:
    return torch.stack([tensor.reshape(()) for tensor in tensors]).sum() if tensors else None


def _who(step: Step) -> str:
    return type(step.penalties[0]).__name__


def _refuse_once_only(step: Step) -> None:
    """Refuse what has no second derivative before anything is read, by the loss that passes it."""
    places = [graph.edge_of(param) for param in step.params] or step.edges
    for name, root in zip(step.names, step.roots, strict=True):
        if root is not None:
            nodes = graph.between([graph.edge_of(root)], places)
            graph.refuse_double_backward(nodes, _who(step), f"loss {name!r}")


def _refuse_missing(step: Step, gradients: list[Tensor], name: str) -> None:
    graph.refuse_missing_derivatives(gradients, _who(step), f"loss {name!r}")


def _check_still_there(step: Step) -> None:
    """A double backward needs the parameters that the first pass used; FSDP2 frees them after it."""
    if any(leaf.numel() and leaf.untyped_storage().size() == 0 for leaf in step.walk.leaves):
        raise RuntimeError(
            f"{_who(step)} needs parameters that FSDP2 has resharded after the first pass: call "
            "model.set_reshard_after_backward(False) once, and reshard() on every FSDP module after each "
            "backward of MultiLoss."
        )
