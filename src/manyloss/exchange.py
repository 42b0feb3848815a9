"""What the ranks exchange before a step: names once; then losses, refusals and one vote, together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from manyloss import precision
from manyloss.checks import listed
from manyloss.distributed import Ranks
from manyloss.errors import RankError
from manyloss.graph import Root
from manyloss.linalg import vector
from manyloss.losses import Given, no_losses


class PresentLosses:
    """The T losses that some rank has in this step.

    Args:
        names: of these losses.
        roots: where this rank's backward starts; None if only other ranks have the loss.
        held: their values: numbers (averaged over the ranks), or scalars on a device, which become numbers
            only when something asks for them.

    """

    def __init__(
        self, names: Sequence[str], roots: list[Root | None], held: Sequence[float] | Sequence[Tensor]
    ) -> None:
        self.names = list(names)
        self.roots = roots
        self.held = held

    @property
    def on_host(self) -> bool:
        """Whether the values can be read without waiting for a device."""
        first = self.held[0]
        return not isinstance(first, Tensor) or not precision.has_to_be_waited_for(first.device)

    @cached_property
    def numbers(self) -> list[float]:
        """The values as numbers."""
        return [float(value) for value in _numbers(self.held)]

    @cached_property
    def values(self) -> Tensor:
        """[T], float64, CPU."""
        return vector(self.numbers)


def _numbers(held: Sequence[float] | Sequence[Tensor | None]) -> list[float]:
    """To the host; what lies there is read in place, another device is waited for once."""
    tensors = [value for value in held if isinstance(value, Tensor)]
    if not tensors:
        return [0.0 if value is None else float(value) for value in held]
    if tensors[0].is_cpu:
        read = iter([value.item() for value in tensors])
    else:
        read = iter(torch.stack(tensors).cpu().tolist())
    return [0.0 if value is None else next(read) for value in held]


def exchange(
    ranks: Ranks, given: Given | None, refused: Exception | None, separate: bool, known: int | None
) -> tuple[PresentLosses, bool]:
    """What all ranks know after it: the losses present, their mean values, and whether all vote ``separate``.

    A rank without a loss passes in 0 for it, which is what its zero gradient says.

    Args:
        ranks: of this step.
        given: this rank's input; None if it was refused.
        refused: why this rank cannot take part, if so.
        separate: this rank's vote.
        known: T, once names and order were compared; None in the first step, which does so.

    Raises:
        Exception: ``refused``, on the rank that passes it.
        RankError: another rank was refused.
        ValueError: the ranks pass losses of other names or in another order, or one has none.

    """
    if ranks.world == 1:
        return _alone(given, refused), separate
    if given is not None and refused is None and all(value is None for value in given.values):
        refused = ValueError(
            "A rank has no losses in this step (all are None): every rank needs at least one; "
            "pass 0 * features.sum() under the name of a loss there."
        )
    if known is None:
        _compare_names(ranks, None if given is None else given.names, refused)
        assert given is not None
        known = len(given.names)
    absent = given is None or refused is not None
    values = [0.0] * known if absent else _numbers(given.values)  # type: ignore[union-attr]
    there = [0.0] * known if absent else [float(v is not None) for v in given.values]  # type: ignore[union-attr]
    refusals = [float(refused is not None and rank == ranks.rank) for rank in range(ranks.world)]
    message = [*values, *there, float(separate), *refusals]
    total = ranks.sum(torch.tensor(message, dtype=torch.float64, device="cpu")).tolist()
    if any(total[2 * known + 1 :]):
        raise_refusals(ranks, refused)
    assert given is not None
    index = [i for i in range(known) if total[known + i] > 0]
    present = PresentLosses(
        [given.names[i] for i in index],
        [given.roots[i] for i in index],
        [total[i] / ranks.world for i in index],
    )
    return present, total[2 * known] == ranks.world


def _alone(given: Given | None, refused: Exception | None) -> PresentLosses:
    if refused is not None:
        raise refused
    assert given is not None
    index = [i for i, value in enumerate(given.values) if value is not None]
    if not index:
        raise no_losses()
    held = [value for value in given.values if value is not None]
    return PresentLosses([given.names[i] for i in index], [given.roots[i] for i in index], held)


def _compare_names(ranks: Ranks, names: tuple[str, ...] | None, refused: Exception | None) -> None:
    """Once: values are summed by position, so all ranks have to pass the same names in the same order."""
    all_named = ranks.gather((names, None if refused is None else str(refused)))
    _raise_refusal_of([text for _, text in all_named], refused)
    first = all_named[0][0]
    for rank, (other, _) in enumerate(all_named):
        if other != first:
            only_first = [name for name in first if name not in other]
            only_other = [name for name in other if name not in first]
            what = (
                f"only rank 0 has {listed(only_first)}, only rank {rank} has {listed(only_other)}"
                if only_first or only_other
                else f"rank 0 passes {listed(first)}, rank {rank} passes {listed(other)}"
            )
            raise ValueError(
                f"The ranks pass different losses: {what}. Pass the same names in the same order on every "
                "rank, and None for a loss that a rank does not have."
            )


def raise_refusals(ranks: Ranks, refused: Exception | None) -> None:
    """Raise on all ranks, each with its own error or a RankError that names the rank; collective.

    Args:
        ranks: of this step, of which some were refused.
        refused: this rank's error, if it is one of them.

    """
    _raise_refusal_of(ranks.gather(None if refused is None else str(refused)), refused)


def _raise_refusal_of(texts: Sequence[str | None], refused: Exception | None) -> None:
    if refused is not None:
        raise refused
    for rank, text in enumerate(texts):
        if text is not None:
            raise RankError(f"Rank {rank} refused this step, so no rank takes it: {text}")
