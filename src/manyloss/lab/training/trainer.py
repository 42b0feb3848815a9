"""What makes the step of a batch: a MultiLoss, or something in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.lab.optimizer import OptimizerSettings
from manyloss.lab.problem import Features, Problem
from manyloss.result import StepResult

#: Is given features and losses after a forward pass, before anything is differentiated.
Measure = Callable[[Features | None, Mapping[str, Tensor | None]], None]


class Trainer(ABC):
    """Makes the step of one batch, with its own state: a MultiLoss, or a defense or distiller in its place.

    ``watched`` are numbers of the last step that are worth a look (the accuracy of an adversary), recorded
    now and then; ``warnings`` counts sentences about what went wrong, each under its own words. The training
    keeps them in its checkpoints.
    """

    def __init__(self) -> None:
        self.watched: Mapping[str, float] = {}
        self.warnings: dict[str, int] = {}

    @abstractmethod
    def step(self, model: nn.Module, inputs: Any, targets: Mapping[str, Any]) -> StepResult:
        """Leave gradients in the model's ``.grad``; the training steps its optimiser."""

    def step_measured(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Mapping[str, Any],
        measure: Measure,
    ) -> StepResult:
        """`step`, with its losses measured where there is a moment for it."""
        return self.step(model, inputs, targets)

    def differentiated_once(self, model: nn.Module) -> Sequence[nn.Module]:
        """The modules whose graph a step goes through one time only: torch.compile allows no more."""
        return ()

    def set_progress(self, fraction: float) -> None:  # noqa: B027  most have no schedule
        """Tell how much of the training is done, epoch / epochs."""

    def end_epoch(self) -> None:  # noqa: B027
        """Tell that an epoch is over."""

    def warned(self) -> dict[str, int]:
        """All `warnings` so far."""
        return dict(self.warnings)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs beside the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""


class MultiLossTrainer(Trainer):
    """The problem's own step with a MultiLoss."""

    def __init__(self, multi: MultiLoss, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self.multi, self.problem = multi, problem
        # GradNorm's W and CosReg's layer are one thing, where inner products are taken another.
        measures = multi.needs.norms or multi.needs.differentiable
        self.shared_params = problem.shared_params(model) if measures else problem.compared_at(model)

    def step(self, model: nn.Module, inputs: Any, targets: Mapping[str, Any]) -> StepResult:
        """`Problem.training_step`."""
        return self.problem.training_step(model, self.multi, inputs, targets, self.shared_params)

    def step_measured(
        self, model: nn.Module, inputs: Any, targets: Mapping[str, Any], measure: Measure
    ) -> StepResult:
        """`Problem.training_step`; what a problem's own one does, no one knows."""
        own = type(self.problem)
        plain = own.training_step is Problem.training_step and own.measured_losses is Problem.measured_losses
        if not plain:
            return self.step(model, inputs, targets)
        features, losses = self.problem.features_and_losses(model, inputs, targets)
        measure(features, losses)
        return self.multi.backward(losses, features=features, shared_params=self.shared_params)

    def differentiated_once(self, model: nn.Module) -> Sequence[nn.Module]:
        """The encoder of a method that reads nothing at its layers; a whole network with one loss.

        What is differentiated again goes through the encoder twice, too; what a problem's own step reads, no
        one knows.
        """
        own_step = type(self.problem).training_step is not Problem.training_step
        if own_step or self.shared_params is not None or self.multi.needs.differentiable:
            return ()
        encoder = getattr(model, "encoder", None)
        if isinstance(encoder, nn.Module):
            return (encoder,)
        return (model,) if len(self.problem.active_names) == 1 else ()

    def set_progress(self, fraction: float) -> None:
        """Pass it on."""
        self.multi.set_progress(fraction)

    def end_epoch(self) -> None:
        """Pass it on."""
        self.multi.end_epoch()

    def warned(self) -> dict[str, int]:
        """What a MultiLoss warned of, which it does once in a training, before it was resumed or after."""
        return super().warned() | dict.fromkeys(self.multi.notices.given.values(), 1)

    def state_dict(self) -> dict[str, Any]:
        """Of the MultiLoss."""
        return self.multi.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of the MultiLoss."""
        self.multi.load_state_dict(dict(state))


class TrainedArm(Protocol):
    """What a training asks of its arm (`arms.ChosenArm`)."""

    @property
    def optimizer(self) -> OptimizerSettings:
        """What it changes about the problem's optimiser."""
        ...

    def build(self, context: Any) -> MultiLoss | Trainer:
        """What makes the steps."""
        ...
