"""Sobolev training (Czarnecki et al. 2017), GREAT's baseline that matches gradients directly (supplement)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from manyloss import checks
from manyloss.adversarial._base import Distiller
from manyloss.adversarial._step import Step
from manyloss.adversarial.result import DistillationResult
from manyloss.distributed import Setting
from manyloss.input_gradients import Loss


class SobolevTraining(Distiller):
    """J + weight * mean (g_s - g_t)^2, the per-example loss gradients of student and teacher at the input.

    The mean is over examples and inputs. The paper gives no weight: search it.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        weight: float = 1.0,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
    ) -> None:
        checks.not_negative("weight", weight)
        super().__init__(student, teacher, loss=loss, input_range=input_range, distributed=distributed)
        self.weight = weight

    def _step(self, step: Step) -> DistillationResult:
        _, task_loss = step.run_model(self.student, "the student")
        g_student = step.input_gradients(task_loss, "the student", create_graph=True)
        g_teacher = self._teacher_gradients(step, step.loss)
        objective = task_loss + self.weight * F.mse_loss(g_student, g_teacher)
        step.require_finite("The loss or an input gradient", objective)
        step.write(objective)
        return self._result(step, objective=objective.detach(), student=g_student, teacher=g_teacher)
