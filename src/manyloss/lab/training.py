"""Ways of training: what an arm trains with when it is no MultiLoss, such as a defense or a distiller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from manyloss.result import StepResult


class WayOfTraining(ABC):
    """One step per batch, with its own state. The trial calls it in the places where it calls a MultiLoss.

    ``watched`` are numbers of the last step that are worth a look (the accuracy of an adversary), recorded
    now and then; ``warnings`` counts sentences about what went wrong, each under its own words.
    """

    def __init__(self) -> None:
        self.watched: Mapping[str, float] = {}
        self.warnings: dict[str, int] = {}

    @abstractmethod
    def step(self, model: nn.Module, inputs: Any, targets: Mapping[str, Any]) -> StepResult:
        """Leave gradients in the model's ``.grad``; the trial steps its optimiser."""

    def differentiated_once(self, model: nn.Module) -> list[nn.Module]:
        """Parts that a step differentiates one time only: torch.compile allows no more."""
        return []

    def set_progress(self, fraction: float) -> None:  # noqa: B027  most ways have no schedule
        """Tell how much of the training is done, epoch / epochs."""

    def end_epoch(self) -> None:  # noqa: B027
        """Tell that an epoch is over."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed trial needs beside the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""
