"""GREAT as a teacher (Sinha et al. 2018, section 2.2 and Algorithm 2): the student's input gradients look
like the teacher's.

The baselines of the paper's Table 3 share the interface: SoftTargets, SobolevTraining, PlainTraining (other
files).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial._adversary import Adversary
from manyloss.adversarial._base import Distiller
from manyloss.adversarial._step import Step
from manyloss.adversarial._watch import share
from manyloss.adversarial.result import DistillationResult
from manyloss.distributed import Setting
from manyloss.input_gradients import Loss
from manyloss.state import OptimizerFactory


class GradientDistillation(Distiller):
    """Trains a student against a discriminator that tells its input gradients from the teacher's.

    `result = method.backward(x, y)` fills the student's `.grad` with the gradient of (1 - alpha) J + alpha
    A, and trains the discriminator by one step; the user's optimiser steps the student. `set_progress`
    lowers the discriminator's rate as the paper does.

    Args:
        student: x [B, ...] -> outputs; trained.
        teacher: the same; stays in eval mode and is not changed.
        discriminator: gradients shaped like x -> one logit each, [N] or [N, 1]; teacher is 1, student is 0.
        alpha: weight of A, in [0, 1].
        adversarial: A. "minimax" is the paper's (line 9: the reversed gradient of the student's label-0
            loss); "non_saturating" pushes the student towards label 1 instead, and keeps its signal when the
            discriminator wins.
        discriminator_lr: of plain Adam.
        optimizer: parameters -> Optimizer, for anything else.
        teacher_gradient: "loss" reads grad_x J(teacher) (line 5); "output" grad_x T(x)_y, the true class's
            probability, one reading of eq. 8b.
        loss: J, (outputs, y) -> one number, the mean over the batch; with another than cross-entropy y may be
            anything.
        input_range: what x must lie in; None leaves it unchecked.
        distributed: "auto" trains together with the other ranks when torch.distributed runs; False alone.

    Raises:
        TypeError, ValueError: a setting is of another kind, or has a value that it cannot have; it is named.

    """

    adversary: Adversary

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
        checks.one_of("adversarial", adversarial, ("minimax", "non_saturating"))
        checks.one_of("teacher_gradient", teacher_gradient, ("loss", "output"))
        checks.within("alpha", alpha, 0.0, 1.0)
        super().__init__(
            student,
            teacher,
            loss=loss,
            input_range=input_range,
            distributed=distributed,
            adversary=Adversary(discriminator, discriminator_lr, optimizer, "discriminator"),
        )
        self.alpha, self.adversarial, self.teacher_gradient = alpha, adversarial, teacher_gradient

    @property
    def discriminator(self) -> nn.Module:
        """The network that tells teacher from student."""
        return self.adversary.network

    def _step(self, step: Step) -> DistillationResult:
        adversary, count = self.adversary, len(step.x)
        _, task_loss = step.run_model(self.student, "the student")  # line 3
        g_student = step.input_gradients(task_loss, "the student", create_graph=True)  # line 4
        read = step.loss if self.teacher_gradient == "loss" else _probability_of_true_class
        g_teacher = self._teacher_gradients(step, read)  # line 5
        step.require_finite("A loss or an input gradient", task_loss, g_student, g_teacher)

        # one batch, teacher first: separate batches would let BatchNorm erase their difference
        seen = adversary.read_apart(g_student)
        judged = adversary(torch.cat([g_teacher.to(seen.dtype), seen]), [2 * count])  # [2B], line 6
        of_teacher, of_student = judged.split(count)
        student_is_0 = F.binary_cross_entropy_with_logits(of_student, torch.zeros_like(of_student))
        student_is_1 = F.binary_cross_entropy_with_logits(of_student, torch.ones_like(of_student))
        teacher_is_1 = F.binary_cross_entropy_with_logits(of_teacher, torch.ones_like(of_teacher))
        discriminator_loss = teacher_is_1 + student_is_0
        adversarial_loss = -student_is_0 if self.adversarial == "minimax" else student_is_1

        (reaching,) = step.gradients(adversarial_loss, [seen], keep=True)  # line 9
        own = step.gradients(discriminator_loss, adversary.trained)
        step.require_finite("The discriminator's loss or gradient", discriminator_loss, reaching, *own)
        step.learned = step.means(own)  # line 7, once all is written

        surrogate = (1 - self.alpha) * task_loss  # line 8
        surrogate = surrogate + self.alpha * (reaching.to(g_student.dtype) * g_student).sum()
        step.write(surrogate)  # line 10 is the user's optimiser
        right = share(torch.cat([of_teacher.detach() > 0, of_student.detach() <= 0]))
        self.watch.count(right)
        return self._result(
            step,
            objective=((1 - self.alpha) * task_loss + self.alpha * adversarial_loss).detach(),
            discriminator_loss=discriminator_loss.detach(),
            discriminator_accuracy=right,
            warnings=self.watch.accuracy_warnings("discriminator", 0.0, self.alpha > 0),
            student=g_student,
            teacher=g_teacher,
        )


def _probability_of_true_class(outputs: Tensor, y: Tensor) -> Tensor:
    """T(x)_y, a mean over the batch."""
    return outputs.softmax(1).gather(1, y[:, None]).mean()
