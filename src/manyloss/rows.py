"""Per-loss gradients at shared parameters as autograd gives them: T lists with one tensor per parameter.

A matrix [T, P] would be a copy of them all, and for a moment two. Here inner products are summed block by
block, each small enough for the processor's cache, and the merged gradient is made parameter by parameter,
whose T gradients are let go at once.

Axis letters: T losses, P shared parameters (numbers), n some of these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from manyloss.graph import Root
from manyloss.linalg import Weights, fits, plain
from manyloss.precision import full_precision

Merge = Callable[[Tensor], Tensor]
"""[T, n] -> [n]."""

MULTIPLIED = 1 << 20  # numbers held in float64 at a time, on a CPU
MERGED = 1 << 17  # numbers merged at a time on a CPU, beside all that a method makes of them
ELSEWHERE = 1 << 23  # either, on a device where launching a kernel costs more than memory


class Rows:
    """T gradients at a list of parameters: dense, complex, sparse, or None where a loss does not reach.

    Inner products over complex parameters are Re<a, b>; a function that merges sees real and imaginary parts
    as numbers of their own. ``combine`` and ``merge`` use the rows up.

    Attributes:
        places: where each loss is to be read, in the order that ``add`` takes.
        count: T.

    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.places: list[Root] = list(params)
        self.count = 0
        self._gradients: list[list[Tensor | None]] = [[] for _ in params]  # per parameter, T of them

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take in the gradients of the next loss; they are neither copied nor written into."""
        for column, gradient in zip(self._gradients, gradients, strict=True):
            column.append(gradient)
        self.count += 1

    def gramian(self) -> Tensor:
        """<g_i, g_j>, formed and summed in float64: nothing from 1e-150 to 1e150 is lost. [T, T], CPU."""
        T = self.count
        held: dict[torch.device, Tensor] = {}
        products: dict[torch.device, Tensor] = {}
        for block in _blocks(_columns(self._gradients), T, MULTIPLIED):
            device, n = _float64_device(block[0].column.device), sum(piece.size for piece in block)
            if device not in held or held[device].shape[1] < n:
                held[device] = torch.empty(T, n, dtype=torch.float64, device=device)
            rows = held[device][:, :n]
            for i, row in enumerate(rows):
                row.copy_(_joined(block, i))
            products[device] = rows @ rows.T + products.get(device, 0.0)
        total = torch.zeros(T, T, dtype=torch.float64, device="cpu")
        return sum((product.cpu() for product in products.values()), start=total)

    def finite(self) -> list[bool]:
        """Per loss, whether all its entries are finite: slow, to name the loss once something is not."""
        found = [True] * self.count
        for column in _columns(self._gradients):
            for i, row in enumerate(column.rows):
                found[i] = found[i] and (row is None or bool(torch.isfinite(row).all()))
        return found

    def combine(self, weights: Weights) -> list[Tensor | None]:
        """sum_i w_i g_i: one tensor per parameter, of its type; None where no loss reaches it.

        Weights that float32 does not hold (a loss with a gradient of 1e-38 may have them) are applied in
        float64.

        Args:
            weights: w [T].

        """
        numbers = plain(weights)
        wide = not all(map(fits, numbers))
        return [_combined(column, numbers, wide) for column in self._take()]

    def merge(self, function: Merge, *, at_once: bool = False) -> list[Tensor | None]:
        """``function`` of the columns: one tensor per parameter, of its type, or None.

        Args:
            function: [T, n] -> [n]. It gets the columns block by block, in the order of the parameters: where
                it draws one random number per column it draws what it would for [T, P].
            at_once: give it all columns as one [T, P], for a method whose columns depend on each other.

        """
        T = self.count
        merged: list[Tensor | None] = [None] * len(self._gradients)
        for block in _blocks(_columns(self._take()), T, None if at_once else MERGED):
            rows = torch.stack([full_precision(_joined(block, i)) for i in range(T)])
            parts = torch.split(function(rows), [piece.size for piece in block])
            for (column, start, stop), part in zip(block, parts, strict=True):
                column.merged[start:stop] = part
                if stop == column.size:
                    merged[column.number] = column.as_tensor(column.merged)
        return merged

    def matrix(self) -> Tensor:
        """The rows side by side: [T, P] of real numbers, a copy. The rows stay."""
        (block,) = _blocks(_columns(self._gradients), self.count, None)
        return torch.stack([full_precision(_joined(block, i)) for i in range(self.count)])

    def _take(self) -> Iterator[list[Tensor | None]]:
        """The gradients at each parameter, which no one else holds when they come."""
        taken = self._gradients[::-1]
        self._gradients, self.count = [[] for _ in taken], 0
        while taken:
            yield taken.pop()


def _combined(gradients: Sequence[Tensor | None], weights: Sequence[float], wide: bool) -> Tensor | None:
    present = [(g, w) for g, w in zip(gradients, weights, strict=True) if g is not None]
    total: Tensor | None = None
    for gradient, weight in sorted(present, key=lambda pair: pair[0].is_sparse):  # a dense sum takes in both
        full = _float64(gradient) if wide else full_precision(gradient)
        # A new tensor: autograd may give one tensor for two parameters, or one that a node has saved.
        total = full * weight if total is None else total.add_(full, alpha=weight)
    return None if total is None else total.to(gradient.device, gradient.dtype)


class _Column:
    """The gradients at one parameter as T rows of real numbers, in the order in which they lie in memory."""

    def __init__(self, number: int, gradients: Sequence[Tensor | None]) -> None:
        self.number = number
        self.sparsity: tuple[Tensor, torch.Size] | None = None
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            gradients, self.sparsity = _at_common_indices(gradients)
        first = next(gradient for gradient in gradients if gradient is not None)
        self.is_complex = first.is_complex()
        self.axes = sorted(range(first.dim()), key=first.stride, reverse=True)
        self.shape = [first.shape[axis] for axis in self.axes]
        self.rows = [None if gradient is None else self._flat(gradient) for gradient in gradients]
        flat = next(row for row in self.rows if row is not None)
        self.size, self.device, self.dtype = len(flat), flat.device, flat.dtype
        self.kind = flat.device, flat.dtype

    def _flat(self, gradient: Tensor) -> Tensor:
        flat = gradient.detach().permute(self.axes).reshape(-1)
        return torch.view_as_real(flat.resolve_conj()).flatten() if self.is_complex else flat

    @cached_property
    def merged(self) -> Tensor:
        """Where the merged row is collected. [n]"""
        return torch.empty(self.size, dtype=self.dtype, device=self.device)

    def as_tensor(self, row: Tensor) -> Tensor:
        """A row in the parameter's shape."""
        flat = torch.view_as_complex(row.view(-1, 2)) if self.is_complex else row
        values = flat.view(self.shape).permute(sorted(range(len(self.axes)), key=self.axes.__getitem__))
        if self.sparsity is None:
            return values
        indices, shape = self.sparsity
        return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=False)


class _Piece(NamedTuple):
    """A part of a column."""

    column: _Column
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def _columns(gradients: Iterable[list[Tensor | None]]) -> Iterator[_Column]:
    for number, column in enumerate(gradients):
        if any(gradient is not None and gradient.numel() for gradient in column):
            yield _Column(number, column)


def _blocks(columns: Iterable[_Column], T: int, numbers: int | None) -> Iterator[list[_Piece]]:
    """Parts of columns that are handled together: about ``numbers`` in T rows, on one device, of one type."""
    block: list[_Piece] = []
    room = 0
    for column in columns:
        if block and numbers is not None and column.kind != block[0].column.kind:
            yield block
            block = []
        start = 0
        while start < column.size:
            if not block:
                room = _room(column.device, T, numbers)
            stop = min(start + room, column.size)
            block.append(_Piece(column, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield block
                block = []
    if block:
        yield block


def _room(device: torch.device, T: int, numbers: int | None) -> int:
    if numbers is None:
        return sys.maxsize
    return max((numbers if device.type == "cpu" else ELSEWHERE) // max(T, 1), 1)


def _joined(block: Sequence[_Piece], i: int) -> Tensor:
    """Row i of a block. [n]"""
    parts = []
    for column, start, stop in block:
        row = column.rows[i]
        parts.append(
            torch.zeros(stop - start, dtype=column.dtype, device=column.device)
            if row is None
            else row[start:stop]
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _at_common_indices(
    gradients: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], tuple[Tensor, torch.Size] | None]:
    """The values of sparse gradients at all the indices that one of them has; dense if one of them is."""
    present = [gradient for gradient in gradients if gradient is not None]
    if not all(gradient.is_sparse for gradient in present):
        return [None if g is None else g.to_dense() for g in gradients], None
    filled = [(torch.zeros_like(present[0]) if g is None else g).coalesce() for g in gradients]
    sizes = [gradient.values().shape[0] for gradient in filled]
    indices, places = torch.unique(torch.cat([g.indices() for g in filled], 1), dim=1, return_inverse=True)
    rows: list[Tensor | None] = []
    for gradient, place in zip(filled, torch.split(places, sizes), strict=True):
        values = gradient.values()
        rows.append(values.new_zeros(indices.shape[1], *values.shape[1:]).index_copy_(0, place, values))
    return rows, (indices, present[0].shape)


def _float64(tensor: Tensor) -> Tensor:
    moved = tensor.to(_float64_device(tensor.device))
    return moved.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _float64_device(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device
