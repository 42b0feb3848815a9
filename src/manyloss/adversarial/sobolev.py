"""Sobolev training (Czarnecki et al. 2017), GREAT's baseline that matches gradients directly (supplement)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._distiller import DistillationResult, Distiller
from manyloss.adversarial._reading import Loss, backward, loss_input_gradient, loss_scale
from manyloss.distributed import Setting


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
        super().__init__(student, teacher, loss=loss, input_range=input_range, distributed=distributed)
        checks.at_least("weight", weight, 0.0)
        self.weight = weight

    def _step(self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None) -> DistillationResult:
        self.team.meet()
        scale = loss_scale(grad_scaler, x)
        x = x.detach().requires_grad_()
        outputs, task_loss = self._task(self.student, x, y, loss, "the student")
        checks.double_backward(outputs, "the student")
        g_student = loss_input_gradient(task_loss, x, scale, create_graph=True, who="the student")
        g_teacher = self._read_teacher(x, y, loss, scale, classifies=loss is F.cross_entropy)
        objective = task_loss + self.weight * F.mse_loss(g_student, g_teacher)
        if not self.team.all_finite(objective):
            return self._not_finite(task_loss, grad_scaler, "The loss or an input gradient")
        backward(objective, grad_scaler)
        return self._result(task_loss, objective, g_student, g_teacher)
