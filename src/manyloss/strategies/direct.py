"""At shared parameters, when nothing listens to their backward: the reads bring all that is written.

Each loss is read at the shared parameters and at every other parameter that it reaches, so there is no
further pass. What is written joins ``.grad`` as an ordinary backward would have done it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyloss import graph
from manyloss.gradients import ListedGradients, check_reached, read, seed_of
from manyloss.layer_norms import layers_to_read
from manyloss.layered_rows import LayeredRows
from manyloss.rows import Rows
from manyloss.strategies._merge import merge
from manyloss.strategies._step import Outcome, Step
from manyloss.strategies.plain import pass_on


def run(step: Step) -> Outcome:
    """Read all, merge, write."""
    others = step.others
    rows = _rows(step)
    own: list[Tensor | None] = [None] * len(others)
    last = len(step.names) - 1
    for i, (root, name, weight) in enumerate(zip(step.roots, step.names, step.weights, strict=True)):
        assert root is not None  # one process has every loss that is present
        keep = step.retain_graph or i < last or step.scale.skips
        seed = step.scale.apply(seed_of(root, step.device))
        with graph.reads_only(step.roots, step.params):
            grads = read([root], name, [*rows.places, *others], [seed], retain_graph=keep)
        shared = grads[: len(rows.places)]
        check_reached(name, shared, "shared_params")
        rows.add([None if grad is None else step.scale.remove(grad) for grad in shared])
        for k, grad in enumerate(grads[len(rows.places) :]):
            own[k] = _add(own[k], grad if grad is None or weight == 1.0 else grad * weight)
        del grads, shared
    gradients = ListedGradients(step.names, lambda: step.losses.values, rows)
    merged = merge(step, gradients, gradients if step.plan.measured_at else None)
    if merged.skipped:
        return pass_on(step)
    assert merged.tensors is not None
    for param, tensor in zip(step.params, merged.tensors, strict=True):
        if tensor is not None:
            _accumulate(param, step.scale.apply(tensor))
    for leaf, grad in zip(others, own, strict=True):
        if grad is not None:
            _accumulate(leaf, grad)
    return merged


def _rows(step: Step) -> Rows:
    """Where the losses are read: at a layer's output where that is less, and nobody asks for gradients."""
    if step.aggregator.needs.gradients:
        return Rows(step.params)
    nodes = [graph.edge_of(root)[0] for root in step.roots if root is not None]
    # One gradient of each weight is formed in any case, to be written.
    layers = layers_to_read(nodes, step.params, len(step.names) - 1)
    return LayeredRows(step.params, layers) if layers else Rows(step.params)


def _add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total + more


def _accumulate(leaf: Tensor, grad: Tensor) -> None:
    """Add to ``.grad`` as torch does: a new one takes the leaf's type and memory layout."""
    grad = grad.detach().to(leaf.dtype)
    if leaf.grad is not None:
        with torch.no_grad():
            leaf.grad += grad
    elif grad.layout != torch.strided or grad.stride() == leaf.stride():
        leaf.grad = grad
    else:
        leaf.grad = torch.empty_like(leaf, requires_grad=False).copy_(grad)
