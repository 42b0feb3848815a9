"""Arms: what a table compares. An arm is a method with its settings, or a change of the problem itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyloss import MultiLoss


@dataclass(frozen=True)
class ArmContext:
    """What a method may read when it is built."""

    losses: tuple[str, ...]
    seed: int
    #: Prerequisite arm -> its result.json (which holds, for example, ``mean_weights``).
    prerequisites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def sum_of_losses(context: ArmContext) -> MultiLoss:  # noqa: ARG001
    """The plain sum: what an arm that only changes the problem trains with."""
    from manyloss import MultiLoss

    return MultiLoss()


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    ``method(context, **options)`` builds the MultiLoss. ``options`` are its settings with their defaults,
    the only ones that ``name:option=value`` may change. ``problem`` are attributes of the Problem that this
    arm sets before anything is built (``{"dropout": 0.5}``). ``selected`` limits the losses. ``search`` are
    values worth trying per option. ``requires`` names arms whose finished trial of the same seed it reads.
    """

    name: str
    summary: str
    method: Callable[..., MultiLoss] = sum_of_losses
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)
    selected: tuple[str, ...] | None = None
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
