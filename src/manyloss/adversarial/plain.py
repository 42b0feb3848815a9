"""No distillation: the row that the others are compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from manyloss.adversarial._base import Distiller
from manyloss.adversarial._step import Step
from manyloss.adversarial.result import DistillationResult
from manyloss.distributed import Setting
from manyloss.input_gradients import Loss


class PlainTraining(Distiller):
    """J alone, in the interface of the distillation methods."""

    reads_input_gradients = False

    def __init__(
        self,
        student: nn.Module,
        *,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
    ) -> None:
        super().__init__(student, None, loss=loss, input_range=input_range, distributed=distributed)

    def _step(self, step: Step) -> DistillationResult:
        _, task_loss = step.run_model(self.student, "the student")
        step.require_finite("The loss", task_loss)
        step.write(task_loss)
        return self._result(step, objective=task_loss.detach())
