"""The Gramian at all parameters, some parameters at a time, without T gradients of them all at once.

The parameters are read in groups, in the order in which a backward reaches them. The T gradients of a group
are held together, their inner products join the Gramian, and they are let go. One ordinary backward of the
weighted losses writes afterwards. Of a layer with fewer numbers at its output than in its weight, gradients
at its output are held in place of those of the weight (see ``layer_norms``).

A group need not be read from the losses. Where the graph has a waist, one node through which every way down
leads (what a block of a ResNet or a transformer gives out), each loss's gradient is kept there, and all below
is read from there. So T passes are walked once, in parts; where several groups lie between two waists, that
part is walked again for each.

Axis letters: T losses, P parameters (numbers).
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from manyloss import layer_norms
from manyloss.graph import LEAF, type_name
from manyloss.layers import Layer
from manyloss.rows import Rows

Root = Tensor | GradientEdge
Start = list[tuple[GradientEdge, Tensor]]
Found = Sequence[Tensor | None]

Part = Tensor | Layer
"""A parameter, or a layer in place of its own."""


def folded_gramian(
    roots: Sequence[Root | None],
    params: Sequence[Tensor],
    *,
    seeds: Sequence[Tensor] | None = None,
    budget: int | None = None,
) -> Tensor:
    """<g_i, g_j> of the losses' gradients at ``params``. [T, T], float64, CPU.

    The graph is kept, for the backward that writes. Hooks on the parameters do not run.

    Args:
        roots: T losses; None for one whose gradient is zero.
        params: P numbers in all; zero where no loss reaches them.
        seeds: what each loss's backward starts with; one when None.
        budget: how many numbers of the gradients may be held at a time; P, what an ordinary backward writes,
            when None. One parameter's T gradients are held in any case.

    """
    T = len(roots)
    numbers = sum(param.numel() for param in params) if budget is None else budget
    edges = [get_gradient_edge(root) if isinstance(root, Tensor) else root for root in roots]
    if seeds is None:
        seeds = [torch.ones((), dtype=torch.float64, device=param.device) for param in params[:1]] * T
    # Per loss, the edges that the next group is read from, and its gradient there.
    starts: list[Start] = [
        [] if edge is None else [(edge, seed)] for edge, seed in zip(edges, seeds, strict=True)
    ]
    total = torch.zeros(T, T, dtype=torch.float64, device="cpu")
    nodes = [start[0][0].node for start in starts if start]
    layers = layer_norms.layers_to_read(nodes, params, T)
    with _without_hooks(params):
        for group in groups(nodes, params, layers, numbers // max(T, 1)):
            rows = Rows(group.params)
            at_outputs: list[list[Tensor | None]] = [[] for _ in group.layers]
            for i, start in enumerate(starts):
                at_params, at_layers, ahead = _read(start, group)
                rows.add(at_params)
                for held, gradient in zip(at_outputs, at_layers, strict=True):
                    held.append(gradient)
                if group.ahead:
                    starts[i] = ahead
                del at_params, at_layers, ahead
            total += rows.gramian()
            for layer, gradients in zip(group.layers, at_outputs, strict=True):
                total += layer_norms.gramian(layer, gradients)
    return total


@dataclass
class Group:
    """Parameters whose gradients are held together.

    Attributes:
        params: the parameters that are read themselves.
        layers: the layers that are read at their outputs.
        ahead: the waist that the next group is read from; empty where it starts as this one does.

    """

    params: list[Tensor]
    layers: list[Layer]
    ahead: list[GradientEdge]


def groups(
    starts: Sequence[Any], params: Sequence[Tensor], layers: Sequence[Layer], limit: int
) -> Iterator[Group]:
    """The parameters that can be reached, in groups of ``limit`` numbers per loss, or of one part.

    Args:
        starts: the nodes of the losses.
        params: what is to be grouped.
        layers: those to be read at their outputs.
        limit: numbers in a group.

    """
    held: list[Part] = []
    room = limit
    for waist, inside in _stretches(starts, params, layers):
        if held and sum(map(_numbers, inside)) > room:
            yield _group(held, waist)
            held, room = [], limit
        for part in inside:
            if held and _numbers(part) > room:
                yield _group(held, [])
                held, room = [], limit
            held.append(part)
            room -= _numbers(part)
    if held:
        yield _group(held, [])


def _group(parts: Sequence[Part], ahead: list[GradientEdge]) -> Group:
    params = [part for part in parts if isinstance(part, Tensor)]
    return Group(params, [part for part in parts if isinstance(part, Layer)], ahead)


def _numbers(part: Part) -> int:
    """How many are held per loss."""
    return part.numel() if isinstance(part, Tensor) else part.positions * part.channels


Stretch = tuple[list[GradientEdge], list[Part]]
"""The edges that lead into a waist, and what is first used between it and the next one."""


def _stretches(starts: Sequence[Any], params: Sequence[Tensor], layers: Sequence[Layer]) -> list[Stretch]:
    """The graph from waist to waist; the first one is that of the losses.

    Nodes are visited as a backward runs them, each after all that lead to it. When only one has been met and
    not yet visited it is a waist: whatever follows is reached through it. The nodes of parameters, from which
    nothing follows, do not count. A parameter that is used again further down stays where it is used first:
    autograd follows all ways to it from there.
    """
    arriving = _arriving(starts)
    missing = {node: sum(numbers.values()) for node, numbers in arriving.items()}
    wanted: dict[int, Part] = {id(param): param for param in params}
    wanted |= {id(param): layer for layer in layers for param in layer.params}
    stretches: list[Stretch] = [([], [])]
    met = set(starts)
    ready: list[tuple[int, int, Any]] = []
    ticket = itertools.count()  # nodes made in different threads may have one number

    def visit_later(node: Any) -> None:
        heapq.heappush(ready, (-node._sequence_nr(), next(ticket), node))

    for node in met:
        if node not in missing:
            visit_later(node)
    while ready:
        node = heapq.heappop(ready)[-1]
        if len(met) == 1 and node not in starts:
            waist = [GradientEdge(node, number) for number in sorted(arriving[node])]
            if len(stretches) > 1 and not stretches[-1][1]:
                stretches.pop()  # nothing to read between it and this one
            stretches.append((waist, []))
        met.remove(node)
        for child, _ in node.next_functions:
            if child is None:
                continue
            missing[child] -= 1
            if type_name(child) == LEAF:
                part = wanted.pop(id(child.variable), None)
                if part is not None:
                    stretches[-1][1].append(part)
                if isinstance(part, Layer):
                    for param in part.params:
                        wanted.pop(id(param), None)
            else:
                met.add(child)
                if not missing[child]:
                    visit_later(child)
    return stretches


def _arriving(starts: Iterable[Any]) -> dict[Any, Counter[int]]:
    """Per node behind ``starts``, how many edges lead to each of its outputs."""
    arriving: dict[Any, Counter[int]] = {}
    stack = list(set(starts))
    seen = set(stack)
    while stack:
        for child, number in stack.pop().next_functions:
            if child is not None:
                arriving.setdefault(child, Counter())[number] += 1
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
    return arriving


def _read(start: Start, group: Group) -> tuple[Found, Found, Start]:
    """One loss's gradients at the parameters of a group, at its layers' outputs, and at the waist ahead."""
    first, second = len(group.params), len(group.params) + len(group.layers)
    if not start:
        return [None] * first, [None] * (second - first), []
    edges, gradients = zip(*start, strict=True)
    inputs: list[Any] = [*group.params, *[layer.output for layer in group.layers], *group.ahead]
    found = torch.autograd.grad(edges, inputs, gradients, retain_graph=True, allow_unused=True)
    there = zip(group.ahead, found[second:], strict=True)
    return found[:first], found[first:second], [(edge, grad) for edge, grad in there if grad is not None]


@contextmanager
def _without_hooks(params: Sequence[Tensor]) -> Iterator[None]:
    """While this lasts, hooks on the parameters do not run: they are for the gradient that is written."""
    hooked = [
        (param._backward_hooks, dict(param._backward_hooks)) for param in params if param._backward_hooks
    ]
    for hooks, _ in hooked:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in hooked:
            hooks.update(kept)
