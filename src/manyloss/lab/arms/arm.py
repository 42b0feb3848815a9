"""What an arm is: a method with its settings, or a change of the problem itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyloss.lab import checks
from manyloss.lab.optimizer import OptimizerSettings
from manyloss.lab.runs import storage

if TYPE_CHECKING:
    from manyloss import MultiLoss
    from manyloss.lab.problem import Problem
    from manyloss.lab.training import Trainer


@dataclass(frozen=True)
class ArmContext:
    """What a method may read when it is built."""

    losses: tuple[str, ...]
    seed: int
    #: Prerequisite arm, as written in ``requires`` -> its result.json (which holds ``mean_weights``).
    prerequisites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Prerequisite arm -> its checkpoint.pt.
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    #: The problem, with this arm's changes.
    problem: Problem | None = None
    #: The model to train; one without parameters stands in while only the options are tried.
    model: nn.Module = field(default_factory=nn.Identity)
    device: torch.device | str = "cpu"

    def weights_of(self, needed: str) -> dict[str, Tensor]:
        """The state dict of a prerequisite's model, as it was tested."""
        saved = storage.load_tensors(self.checkpoints[needed], self.device)
        weights: dict[str, Tensor] = saved["state"]["best"]["model"]
        return weights


def sum_of_losses(context: ArmContext) -> MultiLoss:  # noqa: ARG001
    """The plain sum: what an arm that only changes the problem trains with."""
    from manyloss import MultiLoss

    return MultiLoss()


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    ``method(context, **options)`` builds the MultiLoss, or another `Trainer`. ``options`` are its settings
    with their defaults, the only ones that ``name:option=value`` may change. ``problem`` are attributes of
    the Problem that this arm sets before anything is built (``{"dropout": 0.5}``); ``sets`` are options whose
    values are such attributes (``{"norm": "clip_gradients"}``). ``selected`` limits the losses. ``search``
    are values worth trying per option. ``requires`` names arms whose finished trial of the same seed it
    reads; ``"gradnorm:alpha={alpha}"`` fills in this arm's own options. With ``option_per_loss`` every loss
    name is an option too. ``epochs`` names the attribute of the Problem that holds this arm's number of
    epochs. ``later`` are options that came when trials without them had been kept: a trial's settings leave
    them out at their default, so that its folder stays the same trial's. A ``shared`` arm is only ever a
    prerequisite (a teacher): one trial serves all seeds, and all studies whose folders lie side by side.
    With ``averages`` it holds the weights of the method that it requires, and has that one's options.
    """

    name: str
    summary: str
    method: Callable[..., MultiLoss | Trainer] = sum_of_losses
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    selected: tuple[str, ...] | None = None
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    option_per_loss: float | None = None
    epochs: str | None = None
    later: tuple[str, ...] = ()
    averages: bool = False
    shared: bool = False
    #: Options of the problem's constructor that change nothing in a shared arm.
    shared_despite: tuple[str, ...] = ("data_root",)

    def with_defaults(self, summary: str = "", **options: Any) -> Arm:
        """The same arm with other defaults of its options."""
        return replace(self, summary=summary or self.summary, options={**self.options, **options})


@dataclass(frozen=True)
class ChosenArm:
    """An arm with the options of one row. ``name`` is its one spelling, in tables and folders."""

    name: str
    arm: Arm
    options: Mapping[str, Any]
    requires: tuple[str, ...]
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    @property
    def is_a_method_alone(self) -> bool:
        """Whether it changes nothing but the method, and needs no other trial: a script can have it."""
        return not (self.requires or self.changes or self.arm.selected or self.arm.shared)

    @property
    def changes(self) -> dict[str, Any]:
        """The attributes of the problem that this row sets."""
        given = {attribute: self.options[option] for option, attribute in self.arm.sets.items()}
        return {**self.arm.problem, **given}

    @property
    def own_options(self) -> dict[str, Any]:
        """The options that a trial's settings name beside `changes`."""
        arm = self.arm
        return {
            option: value
            for option, value in self.options.items()
            if option not in arm.sets and (option not in arm.later or value != arm.options[option])
        }

    def apply(self, problem: Problem) -> None:
        """Change the problem as this arm says."""
        for attribute, value in self.changes.items():
            if not hasattr(problem, attribute):
                raise checks.unknown_attribute(self.name, attribute, problem)
            setattr(problem, attribute, value)
        if self.arm.selected is not None:
            problem.selected = self.arm.selected

    def build(self, context: ArmContext) -> MultiLoss | Trainer:
        """The MultiLoss of this row, or what it trains with in its place."""
        return self.arm.method(context, **self.options)
