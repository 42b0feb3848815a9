"""What is written: one ordinary backward, the merged gradient in place of what arrives, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyloss import graph
from manyloss.gradients import as_like, as_real, seed_of
from manyloss.precision import full_precision
from manyloss.scaling import LossScale

Put = Callable[[int, Tensor | None], Tensor | None]
"""(number of the place, arriving gradient, None if there is none) -> what goes on; None leaves it."""


def backward(
    roots: Sequence[graph.Root | None],
    weights: Sequence[float],
    scale: LossScale,
    device: torch.device,
    *,
    objective: Tensor | None = None,
    into: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
) -> None:
    """One ordinary backward of sum_i w_i L_i, plus an objective of its own, all times the scale.

    Args:
        roots: the losses; None for one that only other ranks have.
        weights: w, one per loss.
        scale: of all of it.
        device: of the losses.
        objective: joins the sum.
        into: the leaves that take part; all when None.
        retain_graph: as in ``Tensor.backward``.

    """
    starts: list[Any] = []
    seeds: list[Tensor | None] = []
    for root, weight in zip(roots, weights, strict=True):
        if root is not None:
            starts.append(root)
            plain = weight == 1.0 and scale.factor is None and isinstance(root, Tensor)
            seeds.append(None if plain else scale.apply(seed_of(root, device, weight)))
    if objective is not None:
        starts.append(objective)
        seeds.append(scale.apply(seed_of(objective, device)))
    torch.autograd.backward(starts, seeds, retain_graph=retain_graph, inputs=into)


class Replace:
    """A hook that returns the merged gradient plus the penalties' own, and zero if it fires again.

    Args:
        merged: real, unscaled, one per place.
        own: the penalties' gradient there, unscaled, or None.
        scale: of the backward.
        plain: given, only these parts of what arrives are replaced; unscaled.

    """

    def __init__(
        self,
        merged: Sequence[Tensor],
        own: Sequence[Tensor | None],
        scale: LossScale,
        plain: Sequence[Tensor] | None = None,
    ) -> None:
        self.merged = merged
        self.own = own
        self.plain = plain
        self.scale = scale
        self.fired: set[int] = set()

    def __call__(self, number: int, grad: Tensor | None) -> Tensor | None:
        """What stands in for the gradient that arrives."""
        if grad is None:
            return None
        if number in self.fired:
            return torch.zeros_like(grad)
        self.fired.add(number)
        if self.plain is not None:
            return grad + in_place_of(grad, self.merged[number] - self.plain[number], self.scale)
        extra, total = self.own[number], self.merged[number]
        if extra is not None:
            total = total + as_real(full_precision(extra))
        return in_place_of(grad, total, self.scale)


def in_place_of(grad: Tensor, merged: Tensor, scale: LossScale) -> Tensor:
    """The merged gradient, scaled, in the type, form and layout of the one that arrived."""
    new = as_like(scale.apply(merged), grad)
    return like_sparse(new, grad) if grad.layout == torch.sparse_coo else new


def like_sparse(dense: Tensor, sparse: Tensor) -> Tensor:
    """A dense gradient at the places that a sparse one holds: it is zero everywhere else."""
    places = sparse.coalesce().indices()
    values = dense[tuple(places)]
    return torch.sparse_coo_tensor(places, values, dense.shape, is_coalesced=True, check_invariants=False)


@contextmanager
def hooked(places: Sequence[Tensor], edges: Sequence[graph.Edge], put: Put) -> Iterator[None]:
    """While this lasts, ``put`` stands before whatever the user hooked to the places.

    Hooks go on the tensor; on the node that made it where DDP's sink stands between.
    """
    handles = []
    for number, (tensor, (node, output)) in enumerate(zip(places, edges, strict=True)):
        if tensor.is_leaf or tensor.grad_fn is node:
            handles.append(_first_hook(tensor, partial(put, number)))
        else:
            handles.append(node.register_prehook(partial(_at_output, put, number, output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_hook(tensor: Tensor, hook: Callable[[Tensor | None], Tensor | None]) -> Any:
    """Register a hook that runs before the user's: theirs act on the final gradient."""
    registered = tensor._backward_hooks
    if not registered:
        return tensor.register_hook(hook)  # type: ignore[no-untyped-call]
    before = dict(registered)
    registered.clear()
    handle = tensor.register_hook(hook)  # type: ignore[no-untyped-call]
    registered.update(before)
    return handle


def _at_output(
    put: Put, number: int, output: int, grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    grad = grads[output]
    new = None if grad is None else put(number, grad)
    return grads if new is None else (*grads[:output], new, *grads[output + 1 :])


class Undo:
    """What ``.grad`` of some leaves was, to be put back when a step fails in its backward."""

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self.before: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        self.cover(leaves)

    def cover(self, leaves: Iterable[Tensor]) -> None:
        """Remember the present ``.grad`` of more leaves."""
        for leaf in leaves:
            grad = leaf.grad
            self.before.append((leaf, grad, None if grad is None else grad.detach().clone()))

    def put_back(self) -> None:
        """``.grad`` as it was, in the same tensors."""
        for leaf, grad, value in self.before:
            if grad is not None and value is not None:
                if grad.layout == torch.strided:
                    grad.detach().copy_(value)
                else:
                    grad = value
            leaf.grad = grad
