"""GREAT as a teacher (Sinha et al. 2018, section 2.2 and Algorithm 2): the student's input gradients look
like the teacher's.

The baselines of the paper's Table 3 share the interface: SoftTargets, SobolevTraining, PlainTraining (other
files).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._adversary import Adversary
from manyloss.adversarial._distiller import DistillationResult, Distiller
from manyloss.adversarial._reading import (
    Loss,
    backward,
    loss_input_gradient,
    loss_scale,
    reaching,
    scaled_gradients,
)
from manyloss.distributed import Setting
from manyloss.state import OptimizerFactory


class GradientDistillation(Distiller):
    """Trains a student against a discriminator that tells its input gradients from the teacher's.

    `result = method.backward(x, y)` fills the student's `.grad` with the gradient of (1 - alpha) J + alpha
    A, and trains the discriminator by one step; the user's optimiser steps the student.

    discriminator: gradients shaped like x -> one logit each, [N] or [N, 1]; teacher is 1, student is 0.
    adversarial: A. "minimax" is the paper's (line 9: the reversed gradient of the student's label-0 loss);
    "non_saturating" pushes the student towards label 1 instead, and keeps its signal when the discriminator
    wins. teacher_gradient: "loss" reads grad_x J(teacher) (line 5); "output" grad_x T(x)_y, the true class's
    probability, one reading of eq. 8b. loss(outputs, y) is a mean over the batch; with another loss than
    cross-entropy y may be anything. The teacher stays in eval mode and is not changed. `set_progress` lowers
    the discriminator's rate as the paper does.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        discriminator: nn.Module,
        *,
        alpha: float = 0.1,
        adversarial: str = "non_saturating",
        discriminator_lr: float = 1e-3,
        optimizer: OptimizerFactory | None = None,
        teacher_gradient: str = "loss",
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
    ) -> None:
        super().__init__(student, teacher, loss=loss, input_range=input_range, distributed=distributed)
        checks.one_of("adversarial", adversarial, ("minimax", "non_saturating"))
        checks.one_of("teacher_gradient", teacher_gradient, ("loss", "output"))
        checks.within("alpha", alpha, 0.0, 1.0)
        self.adversary = Adversary(discriminator, discriminator_lr, optimizer, "discriminator")
        self.alpha, self.adversarial, self.teacher_gradient = alpha, adversarial, teacher_gradient

    @property
    def discriminator(self) -> nn.Module:
        """The network that tells teacher from student."""
        return self.adversary.network

    def set_progress(self, fraction: float) -> None:
        """Tell how much of the training is done, epoch / epochs in [0, 1]; the discriminator's rate
        follows.
        """
        super().set_progress(fraction)
        self.adversary.set_progress(fraction)

    def _trained(self) -> list[nn.Module]:
        return [self.student, self.discriminator]

    def _step(self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None) -> DistillationResult:
        self.team.meet(self.discriminator)
        scale = loss_scale(grad_scaler, x)
        x = x.detach().requires_grad_()
        outputs, task_loss = self._task(self.student, x, y, loss, "the student")  # line 3
        checks.double_backward(outputs, "the student")
        g_student = loss_input_gradient(task_loss, x, scale, create_graph=True, who="the student")  # line 4
        g_teacher = self._teacher_gradient(x, y, loss, scale)  # line 5
        if not self.team.all_finite(task_loss, g_student, g_teacher):
            return self._not_finite(task_loss, grad_scaler, "A loss or an input gradient")

        # one batch, teacher first: separate batches would let BatchNorm erase their difference
        seen = self.adversary.cast(g_student.detach()).requires_grad_()
        told = self.adversary(torch.cat([g_teacher.to(seen.dtype), seen]), [2 * len(x)])  # [2B], line 6
        told_teacher, told_student = told.split(len(x))
        student_is_0 = F.binary_cross_entropy_with_logits(told_student, torch.zeros_like(told_student))
        teacher_is_1 = F.binary_cross_entropy_with_logits(told_teacher, torch.ones_like(told_teacher))
        discriminator_loss = teacher_is_1 + student_is_0

        if self.adversarial == "minimax":
            adversarial_loss = -student_is_0
        else:
            adversarial_loss = F.binary_cross_entropy_with_logits(told_student, torch.ones_like(told_student))
        reaching_student = reaching(adversarial_loss, seen, scale, keep=True)  # line 9
        own = scaled_gradients(discriminator_loss, self.adversary.trained, scale)
        own = self.team.average(own)
        if not self.team.all_finite(discriminator_loss, reaching_student, *own):
            return self._not_finite(task_loss, grad_scaler, "The discriminator's loss or gradient")
        self.adversary.learn(own)  # line 7

        surrogate = (1 - self.alpha) * task_loss  # line 8
        surrogate = surrogate + self.alpha * (reaching_student.to(g_student.dtype) * g_student).sum()
        backward(surrogate, grad_scaler)  # line 10 is the user's optimiser
        right = torch.cat([told_teacher.detach() > 0, told_student.detach() <= 0]).double().mean()
        self.watch.count(right)
        return self._result(
            task_loss,
            (1 - self.alpha) * task_loss + self.alpha * adversarial_loss,
            g_student,
            g_teacher,
            discriminator_loss=discriminator_loss.detach(),
            discriminator_accuracy=right,
            words=self.watch.accuracy_warnings("discriminator", 0.0, self.alpha > 0),
        )

    def _teacher_gradient(self, x: Tensor, y: Tensor, loss: Loss, scale: Tensor | None) -> Tensor:
        def probability_of_true_class(outputs: Tensor, labels: Tensor) -> Tensor:
            return outputs.softmax(1).gather(1, labels[:, None]).mean()

        read = loss if self.teacher_gradient == "loss" else probability_of_true_class
        return self._read_teacher(x, y, read, scale, classifies=loss is F.cross_entropy)
