"""Everything that can be wrong with a step, found before anything is touched, on all ranks alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from manyloss.distributed import Ranks
from manyloss.errors import BatchSeparatedError, NotFiniteError
from manyloss.exchange import PresentLosses, exchange
from manyloss.gradients import reaches_nothing
from manyloss.graph import Walk, depends_on, edge_of, walk
from manyloss.losses import Features, Given, Losses, SharedParams, check, check_same_losses
from manyloss.plan import Needs
from manyloss.state import Method
from manyloss.strategies.one_backward import obstacle


@dataclass
class Wanted:
    """What the methods, and whoever looks on, want of a step.

    Attributes:
        methods: of this MultiLoss.
        needs: of all of them together.
        rescale: how the merged gradient is scaled.
        measure: someone wants to see norms, Gramian and cosines.
        skips: a scaler skips steps that are not finite.
        names: of the losses; None before the first step.

    """

    methods: Iterable[Method]
    needs: Needs
    rescale: str
    measure: bool
    skips: bool
    names: tuple[str, ...] | None


@dataclass
class Checked:
    """The input of one step, and what the graph says about it.

    Attributes:
        given: what this rank passed.
        losses: those that some rank has.
        walk: what lies between the losses and the features.
        separate: one backward can tell the losses apart, on all ranks.
        why_not: what stands against it on this rank.
        finite: whether all losses are (always, without a scaler).
        device: of the losses.

    """

    given: Given
    losses: PresentLosses
    walk: Walk
    separate: bool
    why_not: str
    finite: bool
    device: torch.device


def check_step(
    losses: Losses,
    features: Features | None,
    shared_params: SharedParams | None,
    wanted: Wanted,
    ranks: Ranks,
    met: bool,
) -> Checked:
    """Check the input of a step; one that is refused on a rank is refused on all.

    Args:
        losses: as the user passed them.
        features: as the user passed them.
        shared_params: as the user passed them.
        wanted: of this step.
        ranks: of this step.
        met: whether the ranks compared the names of their losses already.

    Raises:
        TypeError, ValueError, RuntimeError: this rank's input is wrong.
        NotFiniteError: a loss is not finite and no scaler skips the step.
        RankError: another rank's is.

    """
    given, found, why_not, refused = None, Walk(), "no features are given", None
    try:
        given = check(losses, features, shared_params)
        if wanted.names is not None:
            check_same_losses(wanted.names, given.names)
        _check_place(given, wanted)
        found, why_not = _look_at_graph(given, wanted, first=not met)
        if ranks.world > 1 and not wanted.skips:
            _check_finite(given.names, [None if v is None else v.tolist() for v in given.values])
    except Exception as error:
        if ranks.world == 1:
            raise
        refused = error
    known = len(wanted.names or ()) if met else None
    present, separate = exchange(ranks, given, refused, not why_not, known)
    assert given is not None
    finite = True
    if present.on_host or wanted.needs.values or wanted.skips:
        finite = all(map(math.isfinite, present.numbers))
        if not finite and not wanted.skips:
            _check_finite(present.names, present.numbers)
    if len(present.names) < len(given.names):
        found.renumber([given.names.index(name) for name in present.names])
    return Checked(given, present, found, separate, why_not, finite, given.device or torch.device("cpu"))


def _check_place(given: Given, wanted: Wanted) -> None:
    """A method that reads gradients needs a place for that."""
    if not given.features and wanted.needs.features:
        what = next(type(method).__name__ for method in wanted.methods if method.needs.features)
        raise ValueError(
            f"{what} works at the features: pass features= (the encoder's output) to backward()."
        )
    if given.features or given.params:
        return
    asking = [type(method).__name__ for method in wanted.methods if method.needs.place]
    if wanted.rescale != "none":
        asking.append(f"rescale={wanted.rescale!r}")
    if wanted.measure:
        asking.append("measure=True")
    if asking:
        raise ValueError(
            f"{asking[0]} reads gradients: pass features= (the encoder's output) or shared_params= to "
            "backward()."
        )


def _look_at_graph(given: Given, wanted: Wanted, *, first: bool) -> tuple[Walk, str]:
    """Walk once, refuse what it shows to be wrong, and say why one backward does not do ("" if it does).

    Where nothing is read, the walk is for the user's sake alone, and one look at the first step is enough.
    """
    if not (wanted.needs.place or wanted.measure or (given.edges and first)):
        return Walk(), "nothing is read"
    found = walk([None if root is None else edge_of(root) for root in given.roots], given.edges)
    if not given.edges:
        return found, "no features are given"
    for name, root, reached in zip(given.names, given.roots, found.reached, strict=True):
        if root is not None and not reached:
            raise reaches_nothing(name, "features")
    _check_shared_by_losses(given, found, wanted)
    why_not = obstacle(given.features, given.edges, found, given.nested)
    if not why_not and given.params:
        watched = [edge_of(param) for param in given.params]
        if any(found.reaches(given.params)):
            why_not = "a loss reaches the shared parameters without passing the features"
        elif all(depends_on(edge, watched) is None for edge in given.edges):
            why_not = "the shared parameters are not seen behind the features"
    return found, why_not


def _check_shared_by_losses(given: Given, found: Walk, wanted: Wanted) -> None:
    """An aggregator works on one features tensor at a time: there has to be something to merge in one."""
    aggregators = [m for m in wanted.methods if m.family == "aggregator" and m.needs.gradients]
    if not aggregators or len(given.edges) == 1 or not found.separate:
        return
    users: list[set[int]] = [set() for _ in given.edges]
    for consumer in found.consumers:
        users[consumer.feature].add(consumer.loss)
    if len(set().union(*users)) > 1 and all(len(losses) <= 1 for losses in users):
        who = type(aggregators[0]).__name__
        raise BatchSeparatedError(
            f"{who} merges the losses' gradients within each features tensor, and each of the "
            f"{len(users)} tensors belongs to one loss alone, so nothing would be merged. Let the encoder "
            "see one batch (torch.cat of the inputs), pass its output as features=, and slice it in the "
            "heads."
        )


def _check_finite(names: Iterable[str], values: Iterable[Any]) -> None:
    """Without a GradScaler nobody would skip a step with inf or nan."""
    for name, value in zip(names, values, strict=True):
        if value is not None and not math.isfinite(value):
            raise NotFiniteError(
                f"Loss {name!r} is {value}: nothing was written. Look for a division, a log or an overflow "
                "in this loss; a mean over an empty mask is nan (pass None for that loss in such a step). "
                "With float16, pass grad_scaler= so that such steps are skipped."
            )
