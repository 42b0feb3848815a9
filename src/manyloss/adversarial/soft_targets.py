"""Soft targets (Hinton, Vinyals, Dean 2015), the first baseline of GREAT's Table 3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from manyloss import checks
from manyloss.adversarial._base import Distiller
from manyloss.adversarial._step import Step
from manyloss.adversarial.result import DistillationResult
from manyloss.distributed import Setting
from manyloss.input_gradients import Loss
from manyloss.precision import full_precision


class SoftTargets(Distiller):
    """(1 - alpha) J + alpha T^2 KL(softmax(t / T) || softmax(s / T)), a mean over the batch; T is
    `temperature`.

    The paper: T = 20 with alpha = 0.1 on all examples and 0.99 on 5 %; T = 6, alpha = 0.95 for the ResNeXt
    pair.
    """

    reads_input_gradients = False

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
        checks.within("alpha", alpha, 0.0, 1.0)
        checks.positive("temperature", temperature)
        super().__init__(student, teacher, loss=loss, input_range=input_range, distributed=distributed)
        self.alpha, self.temperature = alpha, temperature

    def _step(self, step: Step) -> DistillationResult:
        assert self.teacher is not None
        logits, task_loss = step.run_model(self.student, "the student")
        with torch.no_grad():
            teacher_logits = checks.logits(self.teacher(step.x), len(step.x), "the teacher")
        if logits.shape != teacher_logits.shape:
            raise ValueError(
                "Soft targets need student and teacher with the same classes; received logits "
                f"{list(logits.shape)} and {list(teacher_logits.shape)}."
            )
        divergence = F.kl_div(
            (full_precision(logits) / self.temperature).log_softmax(1),
            (full_precision(teacher_logits) / self.temperature).log_softmax(1),
            log_target=True,
            reduction="batchmean",
        )
        objective = (1 - self.alpha) * task_loss + self.alpha * self.temperature**2 * divergence
        step.require_finite("The loss", objective)
        step.write(objective)
        return self._result(step, objective=objective.detach())
