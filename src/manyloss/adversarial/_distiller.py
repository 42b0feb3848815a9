"""What every way of distilling shares: a student, a teacher, and `backward(x, y)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._adversary import Team
from manyloss.adversarial._reading import (
    Loss,
    backward,
    loss_input_gradient,
    unchanged_on_error,
)
from manyloss.adversarial._second import SecondDerivatives
from manyloss.adversarial._watch import Watch, batchnorm_cosine, root_mean_square, zero_share
from manyloss.distributed import Setting


@dataclass(frozen=True)
class DistillationResult:
    """What one step saw; tensors are detached and 0-d, None what this method does not measure."""

    loss: Tensor
    objective: Tensor
    discriminator_loss: Tensor | None = None
    discriminator_accuracy: Tensor | None = None
    student_rms: Tensor | None = None
    teacher_rms: Tensor | None = None
    student_zero_share: Tensor | None = None
    teacher_zero_share: Tensor | None = None
    batchnorm_cosine: Tensor | None = None
    warnings: tuple[str, ...] = ()
    skipped: bool = False


class Distiller(nn.Module):
    """Base of the distillation methods; a subclass writes `_step`."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher.eval() if teacher is not None else None
        self.loss, self.input_range = loss, input_range
        self.watch = Watch()
        self.team = Team(distributed)

    def set_progress(self, fraction: float) -> None:
        """Tell how much of the training is done, epoch / epochs in [0, 1]."""
        checks.progress(fraction)

    def train(self, mode: bool = True) -> Distiller:
        """Switch everything but the teacher, which stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def backward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss | None = None,
        grad_scaler: GradScaler | None = None,
        batchnorm_cosine: bool = False,
    ) -> DistillationResult:
        """Add the gradient of the objective to the student's `.grad`; a discriminator is trained by one step.

        x [B, ...], y int64 [B] for cross-entropy. batchnorm_cosine: measure it too, for two more passes.
        Raises ValueError for bad input or outputs, with nothing written and both networks unchanged.
        """
        chosen = loss or self.loss
        checks.images(x, self.input_range)
        if chosen is F.cross_entropy:
            checks.labels_of(x, y)
        if self.teacher is not None:
            self.teacher.eval()
        with unchanged_on_error(*self._trained()), SecondDerivatives():
            result = self._step(x, y, chosen, grad_scaler)
        if batchnorm_cosine:
            result = self._with_batchnorm_cosine(result, x, y, chosen)
        return result

    def _step(self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None) -> DistillationResult:
        raise NotImplementedError

    def _trained(self) -> list[nn.Module]:
        """The networks that a step changes."""
        return [self.student]

    def _task(self, network: nn.Module, x: Tensor, y: Tensor, loss: Loss, who: str) -> tuple[Tensor, Tensor]:
        """Outputs and their loss J, checked."""
        outputs: Tensor = network(x)
        if loss is F.cross_entropy:
            checks.logits(outputs, len(x), who)
            checks.labels_in_range(y, outputs.shape[1])
        if x.requires_grad:
            checks.reaches_input(outputs, who)
        return outputs, checks.scalar_loss(loss(outputs, y))

    def _read_teacher(
        self, x: Tensor, y: Tensor, loss: Loss, scale: Tensor | None, *, classifies: bool
    ) -> Tensor:
        """The teacher's input gradient of `loss` per example, [B, ...], without a graph; `classifies`: its
        outputs must be logits.
        """
        assert self.teacher is not None
        inputs = x.detach().requires_grad_()
        outputs: Tensor = self.teacher(inputs)
        checks.reaches_input(outputs, "the teacher")
        if classifies:
            checks.logits(outputs, len(x), "the teacher")
            checks.labels_in_range(y, outputs.shape[1])
        value = checks.scalar_loss(loss(outputs, y))
        return loss_input_gradient(value, inputs, scale, create_graph=False, who="the teacher").detach()

    def _not_finite(self, task_loss: Tensor, grad_scaler: GradScaler | None, what: str) -> DistillationResult:
        if grad_scaler is None or not grad_scaler.is_enabled():
            raise checks.not_finite(what)
        backward(
            task_loss * torch.nan, grad_scaler
        )  # the scaler sees it, skips this step and lowers its scale
        return DistillationResult(
            loss=task_loss.detach(),
            objective=torch.full_like(task_loss.detach(), torch.nan),
            warnings=(f"{what} is not finite; the GradScaler skips this step.",),
            skipped=True,
        )

    def _result(
        self,
        task_loss: Tensor,
        objective: Tensor,
        g_student: Tensor | None = None,
        g_teacher: Tensor | None = None,
        *,
        discriminator_loss: Tensor | None = None,
        discriminator_accuracy: Tensor | None = None,
        words: list[str] | None = None,
    ) -> DistillationResult:
        said = list(words or [])
        measured: dict[str, Any] = {}
        for name, gradient in (("student", g_student), ("teacher", g_teacher)):
            if gradient is not None:
                rms, zeros = root_mean_square(gradient), zero_share(gradient)
                measured |= {f"{name}_rms": rms, f"{name}_zero_share": zeros}
                said += self.watch.gradient_warnings(name, rms, zeros)
        return DistillationResult(
            loss=task_loss.detach(),
            objective=objective.detach(),
            discriminator_loss=discriminator_loss,
            discriminator_accuracy=discriminator_accuracy,
            warnings=tuple(said),
            **measured,
        )

    def _with_batchnorm_cosine(
        self, result: DistillationResult, x: Tensor, y: Tensor, loss: Loss
    ) -> DistillationResult:
        cosine = batchnorm_cosine(self.student, x, y, loss)
        words = (*result.warnings, *self.watch.batchnorm_warnings(cosine))
        return DistillationResult(**{**vars(result), "batchnorm_cosine": cosine, "warnings": words})
