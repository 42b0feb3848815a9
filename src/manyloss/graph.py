"""One walk over autograd's graph, and questions to it: who consumes the features, what lies behind them.

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

from manyloss.errors import NoDoubleBackwardError

Edge = tuple[Any, int]
"""(node, output number): where a tensor was made; for a leaf, its AccumulateGrad node and 0."""

Root = Tensor | GradientEdge
"""Where a backward starts."""

_SINK = "_DDPSinkBackward"
LEAF = "AccumulateGrad"
_SUM = ("AddBackward0", "SumBackward0", "StackBackward0")
# A module with full backward hooks wraps its inputs and outputs in these.
_LISTENERS = ("BackwardHookFunctionBackward", _SINK)


def type_name(node: Any) -> str:
    """The name of a node's type, which costs less than ``node.name()`` in every step's walk."""
    return type(node).__name__


def edge_of(root: Root) -> Edge:
    """The edge where a tensor was made, with DDP's sink looked through."""
    if isinstance(root, Tensor) and root.grad_fn is not None:
        return through_sink((root.grad_fn, root.output_nr))
    edge = get_gradient_edge(root) if isinstance(root, Tensor) else root
    return through_sink((edge.node, edge.output_nr))


def through_sink(edge: Edge) -> Edge:
    """The edge behind DDP's sink node, or the edge itself."""
    node, number = edge
    while node is not None and type_name(node) == _SINK:
        node, number = node.next_functions[number]
    return node, number


def children(node: Any) -> list[Edge]:
    """The edges that a node sends gradients into, with DDP's sink looked through."""
    return [through_sink(edge) for edge in node.next_functions]


def roots_of(edges: Iterable[Edge]) -> list[GradientEdge]:
    """Edges in the form that ``torch.autograd.grad`` takes."""
    return [GradientEdge(node, number) for node, number in edges]


# ---------------------------------------------------------------- the walk


@dataclass
class Consumer:
    """One input of one node that takes the features: the gradient that it sends back is one contribution."""

    node: Any
    input_number: int
    loss: int
    feature: int


@dataclass
class Walk:
    """What lies between the losses and the features (or the leaves, where no features are given)."""

    consumers: list[Consumer] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)
    """Per loss, whether it reaches any of the features."""
    separate: bool = True
    """Every edge into the features belongs to one loss, and no loss is one of the features itself."""
    leaves: list[Tensor] = field(default_factory=list)
    """Leaves between: the heads' parameters, and what is reached around the features."""
    contains: list[tuple[int, int]] = field(default_factory=list)
    """(i, j): loss i is a sum that has loss j as a term."""
    common: set[int] = field(default_factory=set)
    """ids of the leaves that several losses reach."""
    listened: bool = False
    """Something on the way listens to an ordinary backward: full backward hooks of a module, DDP."""

    def renumber(self, present: Sequence[int]) -> None:
        """Number the losses anew, now that it is known which of them are present on any rank."""
        number = {old: new for new, old in enumerate(present)}
        for consumer in self.consumers:
            consumer.loss = number[consumer.loss]
        if self.reached:  # else nothing had to be looked at
            self.reached = [self.reached[i] for i in present]
        self.contains = [(number[i], number[j]) for i, j in self.contains]

    def reaches(self, params: Iterable[Tensor]) -> list[bool]:
        """Per parameter, whether a loss reaches it without passing the features."""
        leaves = {id(leaf) for leaf in self.leaves}
        return [id(param) in leaves for param in params]

    def exclusive_without(self, params: Iterable[Tensor]) -> bool:
        """Whether every leaf but these parameters is reached by one loss only."""
        return self.common <= {id(param) for param in params}


def walk(losses: Sequence[Edge | None], features: Sequence[Edge]) -> Walk:
    """Walk from every loss down to the features, and no further.

    Args:
        losses: the edge of each loss; None for a loss without a graph on this rank.
        features: the edges of the features.

    """
    targets = {edge: j for j, edge in enumerate(features)}
    loss_numbers = {edge: i for i, edge in enumerate(losses) if edge is not None}
    owner: dict[Edge, int] = {}
    found = Walk()
    seen_leaves: set[int] = set()
    for i, start in enumerate(losses):
        reached = False
        if start is not None and start in targets:
            found.separate, reached = False, True
        elif start is not None:
            seen = {start[0]}
            stack = [start[0]]
            only_sums = {start[0]}
            while stack:
                node = stack.pop()
                name = type_name(node)
                if name == LEAF:
                    leaf = node.variable
                    if id(leaf) in seen_leaves:
                        found.common.add(id(leaf))
                    else:
                        seen_leaves.add(id(leaf))
                        found.leaves.append(leaf)
                    continue
                if name in _LISTENERS:
                    found.listened = True
                adds = name in _SUM and node in only_sums
                for k, child in enumerate(node.next_functions):
                    below = child[0]
                    if below is None:
                        continue
                    if type_name(below) == _SINK:
                        found.listened = True
                        child = through_sink(child)
                        below = child[0]
                        if below is None:
                            continue
                    feature = targets.get(child)
                    if feature is not None:
                        reached = True
                        if owner.setdefault((node, k), i) != i:
                            found.separate = False
                        else:
                            found.consumers.append(Consumer(node, k, i, feature))
                        continue
                    if adds:
                        only_sums.add(below)
                        if loss_numbers.get(child, i) != i:
                            found.contains.append((i, loss_numbers[child]))
                    if below not in seen:
                        seen.add(below)
                        stack.append(below)
        found.reached.append(reached)
    return found


def nodes_below(starts: Iterable[Any]) -> Iterator[Any]:
    """Every node that gradients arriving at ``starts`` are sent on to, these and DDP's sinks included."""
    stack = list(starts)
    seen: set[Any] = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)


def leaves_behind(edges: Iterable[Edge]) -> list[Tensor]:
    """All leaves that gradients arriving at ``edges`` are sent on to."""
    below = nodes_below(node for node, _ in edges)
    return [node.variable for node in below if type_name(node) == LEAF]


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


def nodes_behind(edges: Iterable[Edge]) -> set[Any]:
    """All nodes that gradients arriving at ``edges`` are sent on to."""
    stack = [node for node, _ in edges]
    seen: set[Any] = set()
    while stack:
        for child, _ in children(stack.pop()):
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)
    return seen


@contextmanager
def severed(edges: Iterable[Edge]) -> Iterator[None]:
    """While this lasts, no gradient passes the nodes that made these outputs (each has one input)."""
    handles = [node.register_hook(_nothing) for node, _ in edges]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing(grad_inputs: tuple[Any, ...], grad_outputs: Any) -> tuple[None, ...]:  # noqa: ARG001
    return (None,) * len(grad_inputs)


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


# ---------------------------------------------------------------- passes that leave no trace


@contextmanager
def reads_only(losses: Iterable[Root | None], places: Iterable[Tensor] = ()) -> Iterator[None]:
    """While this lasts, a pass through the graphs of ``losses`` leaves nothing behind.

    Hooks that the user put on ``places`` act once, on what is written, not on every read; a place with
    ``retain_grad`` would add up what every read brings. With ``static_graph`` the sink of the first step
    queues DDP's delayed all-reduce when it runs; a read that passes it would reduce gradients that are not
    there yet, and the ranks would drift apart silently. The sink does so once, and is marked here as done;
    the write that follows finds it as it was.
    """
    waiting = [
        ddp
        for ddp in (sink.ddp_weakref() for sink in _sinks(losses))
        if ddp.static_graph and not ddp._static_graph_delay_allreduce_enqueued
    ]
    tensors = list(places)
    retained = [(tensor, tensor.grad) for tensor in tensors if tensor.retains_grad]
    hooks = [
        (tensor._backward_hooks, dict(tensor._backward_hooks)) for tensor in tensors if tensor._backward_hooks
    ]
    for ddp in waiting:
        ddp._static_graph_delay_allreduce_enqueued = True
    for registered, _ in hooks:
        registered.clear()
    try:
        yield
    finally:
        for ddp in waiting:
            ddp._static_graph_delay_allreduce_enqueued = False
        for registered, before in hooks:
            registered.update(before)
        for tensor, grad in retained:
            tensor.grad = grad


def _sinks(losses: Iterable[Root | None]) -> list[Any]:
    if not (dist.is_available() and dist.is_initialized()):
        return []
    starts = [
        (get_gradient_edge(loss) if isinstance(loss, Tensor) else loss).node
        for loss in losses
        if loss is not None
    ]
    return [node for node in nodes_below(starts) if type_name(node) == _SINK]


# ---------------------------------------------------------------- what can be differentiated once only

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
    starts = [get_gradient_edge(gradient).node for gradient in gradients if gradient.requires_grad]
    for node in nodes_below(starts):
        if node.name() in _MISSING:
            near = [child.name() for child, _ in node.next_functions if child is not None]
            known = [name for name in near if "AccumulateGrad" not in name]
            raise NoDoubleBackwardError(
                f"{method} needs a double backward of {what}, and torch has none for a part of it"
                f"{f' (near {known[-1]})' if known else ''}: {_WRITE_IT_OUT}, or take a method that reads "
                "gradients without differentiating them."
            )


def _is_marked_once(node: Any) -> bool:
    """Whether this is a user's function with a backward that torch differentiates at best by accident.

    Where the gradient that arrives has no graph of its own, torch takes the result for a constant and says
    nothing.
    """
    function = getattr(type(node), "_forward_cls", None)
    return function is not None and getattr(function.backward, "__code__", None) is _MARKED_ONCE
