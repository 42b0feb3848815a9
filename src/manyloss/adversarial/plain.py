"""No distillation: the row that the others are compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss.adversarial._distiller import DistillationResult, Distiller
from manyloss.adversarial._reading import Loss, backward
from manyloss.distributed import Setting


class PlainTraining(Distiller):
    """J alone, in the interface of the distillation methods."""

    def __init__(
        self,
        student: nn.Module,
        *,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
    ) -> None:
        super().__init__(student, None, loss=loss, input_range=input_range, distributed=distributed)

    def _step(self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None) -> DistillationResult:
        self.team.meet()
        _, task_loss = self._task(self.student, x, y, loss, "the student")
        if not self.team.all_finite(task_loss):
            return self._not_finite(task_loss, grad_scaler, "The loss")
        backward(task_loss, grad_scaler)
        return self._result(task_loss, task_loss)
