"""Per-loss gradients at one place, what is measured on them, and the read of one loss after the other.

Axis letters: T losses, B batch, F features, P shared parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manyloss import linalg
from manyloss.distributed import ALONE, Ranks
from manyloss.graph import Root, edge_of, nodes_below
from manyloss.linalg import Weights
from manyloss.plan import Place
from manyloss.precision import full_precision
from manyloss.rows import Rows
from manyloss.scaling import NO_SCALE, LossScale

HARDLY_ANY = 0.05
"""Share of common rows up to which two losses are taken to come from separate parts of the batch."""


class LossGradients:
    """Unweighted gradients of the losses at one place.

    Complex gradients are held as pairs of real numbers (``torch.view_as_real``), so that an inner product
    over C is Re<a, b>.

    Args:
        names: the T losses present in this step, in the order of the first call.
        values: [T] losses, averaged over the ranks, float64, CPU; or what gives them when they are asked for.
        parts: gradients, one tensor [T, B, *F] per features tensor, or one [T, *P_k] per parameter; this
            rank's batch at features, averaged over the ranks elsewhere. float32, or float64 if that is what
            came.
        place: where they were read.
        ranks: of this step.
        norms_apart: norms are taken from the gradients themselves, also where a Gramian is formed, so that
            they do not depend on whether someone asked for it.

    """

    def __init__(
        self,
        names: Sequence[str],
        values: Tensor | Callable[[], Tensor],
        parts: Sequence[Tensor],
        place: Place = "features",
        ranks: Ranks = ALONE,
        *,
        norms_apart: bool = True,
    ) -> None:
        self.names = tuple(names)
        self._values = values
        self.parts = list(parts)
        self.place: Place = place
        self.ranks = ranks
        self.norms_apart = norms_apart
        # A mean over the ranks' losses puts 1/N before the gradient of each rank's own batch.
        self.spread = ranks if place == "features" else ALONE

    @classmethod
    def of(cls, gradients: Tensor, values: Tensor | None = None) -> LossGradients:
        """Gradients [T, ...] at hand, for the use of a method alone; the losses are named "0", "1", ..."""
        T = gradients.shape[0]
        known = torch.ones(T, device="cpu") if values is None else values
        return cls([str(i) for i in range(T)], known.detach().double().cpu(), [gradients])

    @cached_property
    def values(self) -> Tensor:
        """The losses. [T], float64, CPU."""
        return self._values if isinstance(self._values, Tensor) else self._values()

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """One [T, B, *F] per features tensor, or one [T, P] at shared parameters."""
        if self.place != "shared_params":
            return tuple(self.parts)
        flat = [linalg.as_rows(part) for part in self.parts]
        return (flat[0] if len(flat) == 1 else torch.cat(flat, dim=1),)

    @cached_property
    def gramian(self) -> Tensor:
        """<g_i, g_j> over all tensors and all ranks' batches. [T, T], float64, CPU."""
        total = linalg.gramian(self.parts)
        return total if self.spread.world == 1 else self.spread.sum(total) / self.spread.world**2

    @cached_property
    def products(self) -> list[list[float]]:
        """The Gramian as numbers of Python, for what looks at a few of them. [T, T]"""
        return self.gramian.tolist()

    @cached_property
    def norms(self) -> Tensor:
        """||g_i||_2 over all tensors and all ranks' batches. [T], float64, CPU."""
        if not self.norms_apart:
            return self.gramian.diagonal().clamp(min=0.0).sqrt()
        norms = linalg.row_norms(self.parts)
        if self.spread.world == 1:
            return norms
        return self.spread.sum(norms**2).sqrt() / self.spread.world

    @cached_property
    def cosines(self) -> Tensor:
        """Pairwise cosines, 0 for a zero gradient. [T, T], float64, CPU."""
        return linalg.cosines(self.gramian)

    def combine(self, weights: Weights) -> Sequence[Tensor | None]:
        """sum_i w_i g_i per part: [B, *F] or [*P_k].

        A weight that the gradients' own type cannot hold is applied in float64: a tiny gradient times a huge
        weight may well be an ordinary number.
        """
        return [linalg.weighted_sum(weights, part) for part in self.parts]

    def weighted(self, weights: Weights) -> LossGradients:
        """w_i g_i, at the same place."""
        if all(w == 1.0 for w in linalg.plain(weights)):
            return self
        parts = [scale_rows(part, weights) for part in self.parts]
        return LossGradients(self.names, self._values, parts, self.place, self.ranks)

    def detach(self) -> LossGradients:
        """The same gradients without their graph."""
        parts = [part.detach() for part in self.parts]
        return LossGradients(
            self.names, self._values, parts, self.place, self.ranks, norms_apart=self.norms_apart
        )

    def finite_rows(self) -> list[bool]:
        """Per loss, whether all its entries are finite, on every rank."""
        bad = (~torch.isfinite(linalg.row_scales(self.parts))).cpu().to(torch.float64)
        return [count == 0 for count in self.ranks.sum(bad).tolist()]

    def at_virtual_layer(self, features: Sequence[Tensor]) -> LossGradients:
        """sum_b sgn(A_b) o grad_{A_b} L_i: one multiplicative weight per feature (GradDrop 2020, eq. 3).

        Features of one shape without the batch share their weights: they are parts of one batch, as with one
        batch per domain.

        Args:
            features: the A [B, *F] that the gradients belong to.

        """
        sums: dict[tuple[int, ...], Tensor] = {}
        for part, tensor in zip(self.parts, features, strict=True):
            signs = torch.sign(as_real(tensor.detach())).to(part.dtype)
            summed = (part * signs).sum(1)  # [T, *F]
            shape = tuple(summed.shape)
            sums[shape] = sums[shape] + summed if shape in sums else summed
        parts = [self.ranks.mean(summed) for summed in sums.values()]
        return LossGradients(
            self.names, self._values, parts, "virtual_layer", self.ranks, norms_apart=self.norms_apart
        )

    def separated(self) -> Tensor:
        """[T, T], whether two losses' gradients at the features have no, or hardly any, rows in common.

        Such gradients are orthogonal whatever the losses do to the encoder (GradDrop 2020, 3.2), so their
        inner products are no evidence. Rows are examples, over all features tensors and ranks.
        """
        there = torch.cat(
            [(part != 0).flatten(2).any(2) for part in self.parts if part.dim() > 2]
            or [torch.zeros(len(self.names), 0, dtype=torch.bool, device=self.parts[0].device)],
            dim=1,
        ).float()  # [T, rows]
        common = self.ranks.sum((there @ there.T).cpu().double())
        rows = common.diagonal()
        fewer = torch.minimum(rows[:, None], rows[None, :])
        return (fewer > 0) & (common <= HARDLY_ANY * fewer)


class ListedGradients(LossGradients):
    """Per-loss gradients at shared parameters that stay lists, one tensor per parameter.

    Args:
        names: as in `LossGradients`.
        values: as in `LossGradients`.
        rows: of the T losses; ``combine`` and ``merge`` use them up.

    """

    def __init__(self, names: Sequence[str], values: Tensor | Callable[[], Tensor], rows: Rows) -> None:
        super().__init__(names, values, [], "shared_params", norms_apart=False)
        self.rows = rows

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """One [T, P]: a copy of all rows."""
        return (self.rows.matrix(),)

    @cached_property
    def gramian(self) -> Tensor:
        """<g_i, g_j>. [T, T], float64, CPU."""
        return self.rows.gramian()

    def combine(self, weights: Weights) -> list[Tensor | None]:
        """sum_i w_i g_i per parameter, in its type and form; None where no loss reaches it."""
        return self.rows.combine(weights)

    def finite_rows(self) -> list[bool]:
        """Per loss, whether all its entries are finite."""
        return self.rows.finite()


class OnlyMeasured(LossGradients):
    """Norms, and the Gramian if it was asked for, of gradients that were never held together.

    Args:
        names: as in `LossGradients`.
        values: as in `LossGradients`.
        norms: [T].
        gramian: [T, T], or None.

    """

    def __init__(
        self,
        names: Sequence[str],
        values: Tensor | Callable[[], Tensor],
        norms: Tensor,
        gramian: Tensor | None = None,
    ) -> None:
        super().__init__(names, values, [], "shared_params")
        self._found = norms, gramian

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """There are none.

        Raises:
            RuntimeError: always.

        """
        raise RuntimeError(
            "The gradients themselves were not formed in this step, only their norms and inner products: a "
            "method that reads LossGradients.tensors says so, with needs = Needs(gradients=True, ...)."
        )

    @property
    def norms(self) -> Tensor:
        """||g_i||. [T], float64, CPU."""
        return self._found[0]

    @property
    def gramian(self) -> Tensor:
        """<g_i, g_j>. [T, T], float64, CPU."""
        gramian = self._found[1]
        assert gramian is not None
        return gramian

    def finite_rows(self) -> list[bool]:
        """Per loss, whether all its entries are finite: its norm is."""
        finite: list[bool] = torch.isfinite(self.norms).tolist()
        return finite


def scale_rows(rows: Tensor, factors: Weights) -> Tensor:
    """Rows [T, ...] times one factor each."""
    held = torch.as_tensor(factors, dtype=rows.dtype, device=rows.device)
    return rows * held.view(-1, *[1] * (rows.dim() - 1))


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers in a last axis of 2; any other as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def as_like(merged: Tensor, like: Tensor) -> Tensor:
    """A merged gradient in the type and form of what it stands for."""
    if like.is_complex():
        merged = torch.view_as_complex(merged.contiguous())
    return merged.to(like.dtype)


# ---------------------------------------------------------------- one loss after the other


def read_losses(
    losses: Sequence[Root | None],
    names: Sequence[str],
    features: Sequence[Root],
    likes: Sequence[Tensor],
    params: Sequence[Tensor],
    scale: LossScale = NO_SCALE,
    *,
    refuse: Callable[[list[Tensor], str], None] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """One read per loss, at features and at parameters, with the graph kept.

    Args:
        losses: T roots; None stands for a loss that another rank has and this one has not (a zero row).
        names: of the losses, for errors.
        features: the edges to read at.
        likes: the tensors there.
        params: shared parameters to read at, too.
        scale: what the losses are multiplied with before the read and divided by after it.
        refuse: given, gradients are kept differentiable, for penalties, and it is called with those of each
            loss and its name.

    Returns:
        per features tensor [T, B, *F], and per parameter [T, *P_k].

    Raises:
        ValueError: a loss reaches none of the features, or none of the shared parameters.
        RuntimeError: a compiled module has given its buffers away, or a reentrant checkpoint is in the way.

    """
    places: list[Root] = [*features, *params]
    there = [*likes, *params]
    rows: list[list[Tensor]] = [[] for _ in places]
    for root, name in zip(losses, names, strict=True):
        grads: Sequence[Tensor | None] = [None] * len(places)
        if root is not None:
            seed = scale.apply(seed_of(root, there[0].device))
            grads = read([root], name, places, [seed], create_graph=refuse is not None)
            if refuse is not None:
                refuse([grad for grad in grads if grad is not None], name)
            check_reached(name, grads[: len(features)], "features")
            check_reached(name, grads[len(features) :], "shared_params")
        for row, grad, like in zip(rows, grads, there, strict=True):
            row.append(row_of(grad, like, scale))
    stacked = [torch.stack(row) for row in rows]
    return stacked[: len(features)], stacked[len(features) :]


def read(
    roots: Sequence[Root],
    name: str,
    places: Sequence[Root],
    seeds: Sequence[Tensor],
    *,
    create_graph: bool = False,
    retain_graph: bool = True,
) -> tuple[Tensor | None, ...]:
    """The gradient of one loss at the places, None where it has none."""
    starts: list[Any] = list(roots)  # torch takes tensors and edges together, its types say otherwise
    ends: list[Any] = list(places)
    with _second_pass(name, roots):
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            starts, ends, list(seeds), retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
        )
    return found


def check_reached(name: str, grads: Sequence[Tensor | None], place: str) -> None:
    """Refuse a loss that does not depend on the place where its gradient is read."""
    if grads and all(grad is None for grad in grads):
        raise reaches_nothing(name, place)


def row_of(grad: Tensor | None, like: Tensor, scale: LossScale) -> Tensor:
    """One loss's gradient at one place: dense, real, unscaled, in full precision; zero where it has none."""
    if grad is None:
        return torch.zeros_like(as_real(full_precision(like.detach())))
    if grad.layout != torch.strided:
        grad = grad.to_dense()
    return as_real(scale.remove(grad))


def seed_of(root: Root, device: torch.device, factor: float = 1.0) -> Tensor:
    """What a backward starts with at a loss: ``factor``, in the loss's own type and shape."""
    # The engine casts to an edge's type.
    dtype = root.dtype if isinstance(root, Tensor) else linalg.wide(device)
    return torch.full((), factor, dtype=dtype, device=device)


@contextmanager
def _second_pass(name: str, roots: Sequence[Root]) -> Iterator[None]:
    """When torch cannot pass a graph a second time, say what in the graph is known to forbid it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        passed = {node.name() for node in nodes_below([edge_of(root)[0] for root in roots])}
        if "CheckpointFunctionBackward" in passed:
            raise RuntimeError(
                f"The gradient of loss {name!r} cannot be read apart: it passes a reentrant checkpoint. "
                "Use checkpoint(..., use_reentrant=False)."
            ) from error
        if "CompiledFunctionBackward" in passed and torch._functorch.config.donated_buffer:
            raise RuntimeError(
                f"The gradient of loss {name!r} cannot be read apart: a compiled module has given its "
                "buffers away. Before compiling, set torch._functorch.config.donated_buffer = False and "
                "torch._inductor.config.fx_graph_cache = False (a cached kernel would give them away again, "
                "without a word), or give every loss a head of its own."
            ) from error
        raise


def reaches_nothing(name: str, place: str) -> ValueError:
    """A loss that does not depend on the place where its gradient is read."""
    return ValueError(
        f"Loss {name!r} reaches none of the {place}. Usual causes: other features were passed than the "
        "heads used; an in-place operation on the features after they were made (such as "
        "ReLU(inplace=True) first in a head) replaced them; encoder, heads and losses were compiled as one "
        "graph: compile the encoder and the heads separately; a reentrant checkpoint hides the "
        "parameters: use checkpoint(..., use_reentrant=False); or the loss is computed inside the encoder "
        "(an auxiliary loss): add it to one of the losses that come after, or pass shared_params= in place "
        "of features=."
    )
