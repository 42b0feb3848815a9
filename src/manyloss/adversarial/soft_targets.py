"""Soft targets (Hinton, Vinyals, Dean 2015), the first baseline of GREAT's Table 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._distiller import DistillationResult, Distiller
from manyloss.adversarial._reading import Loss, backward, widened
from manyloss.distributed import Setting


class SoftTargets(Distiller):
    """(1 - alpha) J + alpha T^2 KL(softmax(t / T) || softmax(s / T)), a mean over the batch; T is
    `temperature`.

    The paper: T = 20 with alpha = 0.1 on all examples and 0.99 on 5 %; T = 6, alpha = 0.95 for the ResNeXt
    pair.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        alpha: float = 0.1,
        temperature: float = 20.0,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
    ) -> None:
        super().__init__(student, teacher, loss=loss, input_range=input_range, distributed=distributed)
        checks.within("alpha", alpha, 0.0, 1.0)
        checks.positive("temperature", temperature)
        self.alpha, self.temperature = alpha, temperature

    def _step(self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None) -> DistillationResult:
        self.team.meet()
        assert self.teacher is not None
        logits, task_loss = self._task(self.student, x, y, loss, "the student")
        with torch.no_grad():
            teacher_logits = checks.logits(self.teacher(x), len(x), "the teacher")
        checks.same_classes(logits, teacher_logits)
        divergence = F.kl_div(
            (widened(logits) / self.temperature).log_softmax(1),
            (widened(teacher_logits) / self.temperature).log_softmax(1),
            log_target=True,
            reduction="batchmean",
        )
        objective = (1 - self.alpha) * task_loss + self.alpha * self.temperature**2 * divergence
        if not self.team.all_finite(objective):
            return self._not_finite(task_loss, grad_scaler, "The loss")
        backward(objective, grad_scaler)
        return self._result(task_loss, objective)
