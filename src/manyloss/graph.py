"""Walks over autograd's graph: who consumes the features, and which nodes lie between losses and a place.

Nodes are torch's own objects, made anew each step, so nothing here is cached. DistributedDataParallel with
``static_graph`` or ``find_unused_parameters`` puts one sink node behind all the outputs of a forward; it is
looked through edge by edge, or every loss would seem to depend on every output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from manyloss import checks
from manyloss.errors import NoDoubleBackwardError

Edge = tuple[Any, int]
"""(node, output number): where a tensor was made; for a leaf, its AccumulateGrad node and 0."""

_SINK = "_DDPSinkBackward"


def edge_of(root: Tensor | GradientEdge) -> Edge:
    """The edge where a tensor was made, with DDP's sink looked through."""
    edge = get_gradient_edge(root) if isinstance(root, Tensor) else root
    return through_sink((edge.node, edge.output_nr))


def through_sink(edge: Edge) -> Edge:
    """The edge behind DDP's sink node, or the edge itself."""
    node, number = edge
    while node is not None and node.name() == _SINK:
        node, number = node.next_functions[number]
    return node, number


def children(node: Any) -> list[Edge]:
    """The edges that a node sends gradients into, with DDP's sink looked through."""
    return [through_sink(edge) for edge in node.next_functions]


@contextmanager
def reads_only(
    losses: Iterable[Tensor | GradientEdge | None], features: Iterable[Tensor] = ()
) -> Iterator[None]:
    """While this lasts, a pass through the graphs of ``losses`` leaves nothing behind.

    Features with ``retain_grad`` would add up what every read brings. With ``static_graph`` the sink of the
    first step queues DDP's delayed all-reduce when it runs; a read that passes it would reduce gradients
    that are not there yet, and the ranks would drift apart silently. The sink does so once, and is told here
    that it did; the write that follows finds it as it was.
    """
    waiting = [
        ddp
        for ddp in (sink.ddp_weakref() for sink in _sinks(losses))
        if ddp.static_graph and not ddp._static_graph_delay_allreduce_enqueued
    ]
    retained = [(tensor, tensor.grad) for tensor in features if tensor.retains_grad]
    for ddp in waiting:
        ddp._static_graph_delay_allreduce_enqueued = True
    try:
        yield
    finally:
        for ddp in waiting:
            ddp._static_graph_delay_allreduce_enqueued = False
        for tensor, grad in retained:
            tensor.grad = grad


def _sinks(losses: Iterable[Tensor | GradientEdge | None]) -> list[Any]:
    if not (dist.is_available() and dist.is_initialized()):
        return []
    stack: list[Any] = [
        (get_gradient_edge(loss) if isinstance(loss, Tensor) else loss).node
        for loss in losses
        if loss is not None
    ]
    seen = set(stack)
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)
    return [node for node in seen if node.name() == _SINK]


@dataclass
class Consumer:
    """One input of one node that takes the features: the gradient that it sends back is one contribution."""

    node: Any
    input_number: int
    loss: int
    feature: int


@dataclass
class Walk:
    """What lies between each loss and the features."""

    consumers: list[Consumer] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)  # per loss: does it reach any of the features
    shared_consumer: bool = False  # an edge into the features is reached from two losses
    loss_is_feature: bool = False
    around: bool = False  # a loss reaches one of the watched parameters without passing the features
    reentrant: int | None = (
        None  # a loss behind a reentrant checkpoint, which cannot be read by autograd.grad
    )
    compiled: bool = False  # a compiled graph lies between the losses and the features
    leaves: list[Tensor] = field(default_factory=list)  # leaves between: the heads' parameters


def walk(losses: Sequence[Edge | None], features: Sequence[Edge], watched: Iterable[Tensor] = ()) -> Walk:
    """Walk from every loss down to the features, and no further.

    Args:
        losses: the edge of each loss; None for a loss without a graph on this rank.
        features: the edges of the features.
        watched: parameters of which it should be known whether a loss reaches them around the features.

    """
    targets = {edge: j for j, edge in enumerate(features)}
    watched_ids = {id(parameter) for parameter in watched}
    owner: dict[tuple[Any, int], int] = {}
    found = Walk()
    seen_leaves: set[int] = set()
    for i, start in enumerate(losses):
        reached = False
        if start is not None and start in targets:
            found.loss_is_feature = reached = True
        elif start is not None:
            seen = {start[0]}
            stack = [start[0]]
            while stack:
                node = stack.pop()
                name = node.name()
                if name == "CheckpointFunctionBackward":
                    found.reentrant = i
                elif name == "CompiledFunctionBackward":
                    found.compiled = True
                elif name == "torch::autograd::AccumulateGrad":
                    leaf = node.variable
                    found.around |= id(leaf) in watched_ids
                    if id(leaf) not in seen_leaves:
                        seen_leaves.add(id(leaf))
                        found.leaves.append(leaf)
                for k, child in enumerate(children(node)):
                    if child in targets:
                        reached = True
                        if owner.setdefault((node, k), i) != i:
                            found.shared_consumer = True
                        else:
                            found.consumers.append(Consumer(node, k, i, targets[child]))
                    elif child[0] is not None and child[0] not in seen:
                        seen.add(child[0])
                        stack.append(child[0])
        found.reached.append(reached)
    return found


def reached_params(found: Walk, params: Iterable[Tensor]) -> list[bool]:
    """Per parameter, whether one of the losses reaches it on this rank."""
    leaves = {id(leaf) for leaf in found.leaves}
    return [id(param) in leaves for param in params]


def between(starts: Iterable[Edge], targets: Iterable[Edge]) -> list[Any]:
    """The nodes on a way from ``starts`` to ``targets``: what a double backward goes through."""
    goal = set(targets)
    leads: dict[Any, bool] = {}
    for start, _ in starts:
        stack = [(start, False)]
        while stack:
            node, done = stack.pop()
            below = children(node)
            if done:
                leads[node] = any(child in goal or leads.get(child[0], False) for child in below)
            elif node not in leads:
                leads[node] = False
                stack.append((node, True))
                stack.extend(
                    (child[0], False)
                    for child in below
                    if child[0] is not None and child not in goal and child[0] not in leads
                )
    return [node for node, on_the_way in leads.items() if on_the_way]


def depends_on(start: Edge, others: Sequence[Edge]) -> int | None:
    """The number of the first of ``others`` that ``start`` is computed from, or None."""
    targets = {edge: j for j, edge in enumerate(others)}
    seen = {start[0]}
    stack = [start[0]]
    while stack:
        for child in children(stack.pop()):
            if child in targets:
                return targets[child]
            if child[0] is not None and child[0] not in seen:
                seen.add(child[0])
                stack.append(child[0])
    return None


def independent_edges(features: Sequence[Tensor]) -> list[Edge]:
    """The edges of the features, none of which may depend on another.

    Raises:
        ValueError: one is computed from another.

    """
    edges = [edge_of(tensor) for tensor in features]
    if len(edges) > 1:
        for i, edge in enumerate(edges):
            found = depends_on(edge, edges[:i] + edges[i + 1 :])
            if found is not None:
                raise checks.independent_features(i, found + (found >= i))
    return edges


# -- what can be differentiated once only -------------------------------------------------------------------

_WRITE_IT_OUT = "write that part in operations that torch differentiates twice"
#: How the name of a node without a double backward begins -> the way out.
_ONCE_ONLY = {
    "CompiledFunctionBackward": "leave what lies between it and the place where gradients are read "
    "uncompiled (a compiled module keeps the original as ._orig_mod)",
    "CudnnRnnBackward": "run that layer under torch.backends.cudnn.flags(enabled=False)",
    "MiopenRnnBackward": "run that layer under torch.backends.cudnn.flags(enabled=False)",
    "ScaledDotProduct": "run the forward under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
    "CheckpointFunctionBackward": "use checkpoint(..., use_reentrant=False)",
    "CdistBackward": "write the distances as (x[:, None] - y[None]).norm(dim=-1)",
    "PdistBackward": "write the distances as (x[:, None] - x[None]).norm(dim=-1)",
    "EmbeddingBagBackward": "use torch.nn.Embedding and reduce over the bag yourself",
}
#: What torch puts into the graph of a gradient where it has no derivative, to fail when that is reached.
_MISSING = ("torch::autograd::NotImplemented", "torch::autograd::Error")
_MARKED_ONCE = once_differentiable(lambda _: None).__code__


def refuse_double_backward(nodes: Iterable[Any], method: str, what: str) -> None:
    """Refuse, before gradients are read, what torch can differentiate once only.

    Args:
        nodes: what is to be differentiated twice: the nodes :func:`between` what is read and where.
        method: who needs it ("CosReg").
        what: what is read ("loss 'a'", "the student").

    Raises:
        NoDoubleBackwardError: one of the nodes has no double backward; names it and the way out.

    """
    for node in nodes:
        name = node.name()
        way_out = next((way for start, way in _ONCE_ONLY.items() if name.startswith(start)), None)
        if way_out is None and _is_marked_once(node):
            way_out = f"its backward is marked @once_differentiable; {_WRITE_IT_OUT}"
        if way_out is not None:
            raise NoDoubleBackwardError(
                f"{method} needs a double backward of {what}, which {name} does not have: {way_out}."
            )


def refuse_missing_derivatives(gradients: Iterable[Tensor], method: str, what: str) -> None:
    """Refuse, after gradients were read with ``create_graph``, what torch says only then (CTC, margins ...).

    A derivative that torch does not have is a node in the graph of the gradient that fails when it is
    reached, that is in the middle of the write. The arguments are those of :func:`refuse_double_backward`,
    with the gradients that were read in place of the nodes.

    Raises:
        NoDoubleBackwardError: there is such a node.

    """
    for node in _below(gradient for gradient in gradients if gradient.requires_grad):
        if node.name() in _MISSING:
            near = [child.name() for child, _ in node.next_functions if child is not None]
            known = [name for name in near if "AccumulateGrad" not in name]
            raise NoDoubleBackwardError(
                f"{method} needs a double backward of {what}, and torch has none for a part of it"
                f"{f' (near {known[-1]})' if known else ''}: {_WRITE_IT_OUT}, or take a method that reads "
                "gradients without differentiating them."
            )


def _below(roots: Iterable[Tensor]) -> Iterator[Any]:
    """Every node that the tensors are computed from."""
    stack = [get_gradient_edge(root).node for root in roots]
    seen: set[Any] = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)


def _is_marked_once(node: Any) -> bool:
    """Whether this is a user's function with a backward that torch differentiates at best by accident.

    Where the gradient that arrives has no graph of its own, torch takes the result for a constant and says
    nothing.
    """
    function = getattr(type(node), "_forward_cls", None)
    return function is not None and getattr(function.backward, "__code__", None) is _MARKED_ONCE
