"""Problems whose losses live on separate rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.lab.problem import Problem, Targets
from manyloss.result import StepResult


class BatchSeparated(Problem):
    """What compares gradients does so at the parameters of ``model.encoder``.

    At the features gradients of losses on separate rows have nothing in common.
    """

    def training_step(
        self,
        model: nn.Module,
        multi: MultiLoss,
        inputs: Any,
        targets: Targets,
        shared_params: Sequence[Tensor] | None,
    ) -> StepResult:
        """Where a method names no layer of its own, all of the encoder."""
        if shared_params is None:
            encoder = model.encoder
            assert isinstance(encoder, nn.Module)
            shared_params = list(encoder.parameters())
        return super().training_step(model, multi, inputs, targets, shared_params)
