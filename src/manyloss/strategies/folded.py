"""At shared parameters in little memory: inner products are folded part by part, then one backward writes.

At most P numbers of the losses' gradients are held at a time, as an ordinary backward writes them, in place
of T P; it takes one pass through the shared part more than ``direct``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from manyloss import graph
from manyloss.folding import folded_gramian
from manyloss.gradients import OnlyMeasured, reaches_nothing, seed_of
from manyloss.linalg import plain, vector
from manyloss.strategies._merge import LARGEST_RESCALE, Merged, check_measured
from manyloss.strategies._step import Outcome, Step
from manyloss.strategies.plain import pass_on
from manyloss.writing import Undo, backward


def run(step: Step) -> Outcome:
    """Fold, weigh, write: the weighted sum into the shared parameters, the plain one into the others."""
    others = step.others
    measured = _measure(step)
    merged = Merged(step.weights, measured)
    if not check_measured(step, measured, merged):
        return pass_on(step)
    found = step.weighting.weigh_gradients(measured)
    assert found is not None  # a Gramian was asked for by a gradient weighting, or by nobody
    weights = vector(found)
    merged.weights = plain(weights)
    written = weights * _rescale(step, weights, measured.gramian)
    undo = Undo([*step.params, *others])
    try:
        if others:  # first: the shared part's activations are let go while its own gradients fill .grad
            _write(step, step.weights, others, retain_graph=True)
        _write(step, written.tolist(), step.params, retain_graph=step.retain_graph)
    except BaseException:
        undo.put_back()
        raise
    return merged


def _measure(step: Step) -> OnlyMeasured:
    edges = [graph.edge_of(param) for param in step.params]
    for name, root in zip(step.names, step.roots, strict=True):
        if root is not None and graph.depends_on(graph.edge_of(root), edges) is None:
            raise reaches_nothing(name, "shared_params")
    seeds = [seed_of(root, step.device) for root in step.roots if root is not None]
    gramian = folded_gramian(step.roots, step.params, seeds=seeds)
    norms = gramian.diagonal().clamp(min=0.0).sqrt()
    return OnlyMeasured(step.names, lambda: step.losses.values, norms, gramian)


def _rescale(step: Step, weights: Tensor, gramian: Tensor) -> float:
    """What brings the merged gradient to the norm of the plain sum, from the Gramian."""
    if step.rescale != "sum_norm":
        return 1.0
    norm = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
    wanted = math.sqrt(max(float(gramian.sum()), 0.0))
    return min(wanted / norm, LARGEST_RESCALE) if norm > 0.0 else 0.0


def _write(step: Step, weights: Sequence[float], into: Sequence[Tensor], *, retain_graph: bool) -> None:
    """One ordinary backward into some of the leaves."""
    backward(step.roots, weights, step.scale, step.device, into=into, retain_graph=retain_graph)
