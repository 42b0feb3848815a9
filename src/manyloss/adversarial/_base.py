"""What defense and distillation share: one model, trained by `result = method.backward(x, y)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._adversary import Adversary
from manyloss.adversarial._step import SkipStep, Step
from manyloss.adversarial._votes import Votes
from manyloss.adversarial._watch import (
    Watch,
    batchnorm_cosine,
    batchnorm_warnings,
    gradient_warnings,
    root_mean_square,
    zero_share,
)
from manyloss.adversarial.result import DistillationResult, ModelResult, Notice
from manyloss.distributed import Ranks, Setting, check_setting, ranks_of
from manyloss.input_gradients import Loss, as_input, ordinary
from manyloss.restore import remember_buffers
from manyloss.scaling import LossScale
from manyloss.schedule import check_progress
from manyloss.writing import Undo

Result = TypeVar("Result", bound=ModelResult)


class ModelMethod(nn.Module, ABC, Generic[Result]):
    """Base of what trains one model; a subclass says which (`trained`) and writes `_step` and `_result`.

    Args:
        loss: (outputs, y) -> one number, the mean over the batch.
        input_range: what x must lie in; None leaves it unchecked.
        distributed: the ranks that train together, see MultiLoss.
        adversary: the network that reads gradients, with its optimiser.

    """

    adversary: Adversary | None
    reads_input_gradients: ClassVar[bool] = True

    def __init__(
        self,
        *,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = None,
        distributed: Setting = "auto",
        adversary: Adversary | None = None,
    ) -> None:
        checks.function("loss", loss, "torch.nn.functional.cross_entropy")
        if input_range is not None:
            checks.limits("input_range", input_range)
        check_setting(distributed)
        super().__init__()
        self.loss, self.input_range, self.distributed = loss, input_range, distributed
        self.adversary = adversary
        self.watch = Watch()
        self._ranks: Ranks | None = None

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The model whose `.grad` a step fills."""

    @property
    def differentiated_once(self) -> Sequence[nn.Module]:
        """The networks that a step differentiates once only: these may be compiled."""
        return ()

    def set_progress(self, fraction: float) -> None:
        """Tell how much of the training is done, epoch / epochs in [0, 1]."""
        check_progress(fraction)
        if self.adversary is not None:
            self.adversary.set_progress(fraction)

    def backward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss | None = None,
        grad_scaler: GradScaler | None = None,
        batchnorm_cosine: bool = False,
    ) -> Result:
        """Add the gradient of the objective to the model's `.grad`; an adversary is trained by one step.

        A call that fails, whatever the reason, leaves everything as it was: `.grad`, buffers, the adversary
        and its optimiser.

        Args:
            x: [B, ...], inside `input_range`.
            y: int64 [B] for cross-entropy, else whatever the loss takes.
            loss: instead of the one given at construction, for this step.
            grad_scaler: a `torch.amp.GradScaler`; `.grad` is then scaled, for `scaler.step(optimizer)`.
            batchnorm_cosine: measure it too, for two more passes.

        Raises:
            ValueError: bad input or outputs.
            NotFiniteError: NaN or infinity, and no scaler that skips the step.
            NoDoubleBackwardError: the model can be differentiated once only.
            RuntimeError: called in inference mode.

        """
        votes = Votes(self._meet())
        with torch.enable_grad(), votes.reported(), ExitStack() as undo:
            step = self._checked(x, y, loss or self.loss, grad_scaler, votes)
            undo.callback(Undo(step.parameters).put_back)
            try:
                with step.undo:
                    step.undo.callback(remember_buffers(self))
                    step.undo.callback(setattr, self, "watch", replace(self.watch))
                    result = self._step(step)
                    if batchnorm_cosine:
                        result = self._with_batchnorm_cosine(result, step)
                    if self.adversary is not None and step.learned is not None:
                        self.adversary.learn(step.learned)
                    step.undo.pop_all()  # nothing failed
            except SkipStep as skip:
                step.pass_on()
                nan = torch.full_like(step.task_loss, torch.nan)
                result = self._result(step, objective=nan, skipped=True, warnings=(skip.notice,))
            undo.pop_all()
        return result

    @abstractmethod
    def _step(self, step: Step) -> Result:
        """Read, check, write, in the order of the paper."""

    @abstractmethod
    def _result(self, step: Step, **measured: Any) -> Result:
        """What was measured, with what every step knows."""

    def _classifies(self, loss: Loss) -> bool:
        """Whether y holds class numbers and the outputs must be logits."""
        return loss is F.cross_entropy

    def _meet(self) -> Ranks:
        """The ranks that train together; at the first step they are found, and the adversary starts alike."""
        if self._ranks is None:
            self._ranks = ranks_of(self.distributed)
            if self.adversary is not None:
                self._ranks.start_alike(self.adversary.network)
        return self._ranks

    def _checked(
        self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None, votes: Votes
    ) -> Step:
        checks.images(x, self.input_range)
        classifies = self._classifies(loss)
        if classifies:
            checks.labels_of(x, y)
        inputs = as_input(x, requires_grad=self.reads_input_gradients)
        if isinstance(y, Tensor):
            y = ordinary(y)
        parameters = [each for each in self.trained.parameters() if each.requires_grad]
        scale = LossScale.of(grad_scaler, x.device)
        return Step(type(self).__name__, inputs, y, loss, classifies, parameters, scale, votes)

    def _with_batchnorm_cosine(self, result: Result, step: Step) -> Result:
        cosine = batchnorm_cosine(self.trained, step.x, step.y, step.loss)
        words = (*result.warnings, *batchnorm_warnings(cosine))
        return replace(result, batchnorm_cosine=cosine, warnings=words)

    # ------------------------------------------------------------------ saving

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= {f"{prefix}watch.{key}": tensor for key, tensor in self.watch.tensors().items()}

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if self.adversary is not None:
            self.adversary.check_saved(state_dict, f"{prefix}adversary.")  # before anything is changed
        watch = f"{prefix}watch."
        mine = {key.removeprefix(watch): each for key, each in state_dict.items() if key.startswith(watch)}
        if mine:
            self.watch = Watch.of(mine)
        else:
            missing_keys.append(f"{prefix}watch")
        others = {key: each for key, each in state_dict.items() if not key.startswith(watch)}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class Distiller(ModelMethod[DistillationResult]):
    """Base of the ways of distilling: a student, and a teacher that stays in eval mode and is not changed."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None, **settings: Any) -> None:
        checks.network("student", student)
        if teacher is not None:
            checks.network("teacher", teacher)
        super().__init__(**settings)
        self.student = student
        self.teacher = teacher.eval() if teacher is not None else None

    @property
    def trained(self) -> nn.Module:
        """The student."""
        return self.student

    @property
    def differentiated_once(self) -> Sequence[nn.Module]:
        """The teacher."""
        return () if self.teacher is None else (self.teacher,)

    def train(self, mode: bool = True) -> Self:
        """Switch everything but the teacher, which stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def _checked(self, *given: Any) -> Step:
        if self.teacher is not None:
            self.teacher.eval()
        return super()._checked(*given)

    def _teacher_gradients(self, step: Step, loss: Loss) -> Tensor:
        """The teacher's input gradient of `loss` per example, [B, ...], without a graph."""
        assert self.teacher is not None
        beside = step.beside(loss)
        _, value = beside.run(self.teacher, "the teacher")
        return beside.input_gradients(value, "the teacher", create_graph=False).detach()

    def _result(
        self,
        step: Step,
        *,
        student: Tensor | None = None,
        teacher: Tensor | None = None,
        warnings: Sequence[Notice] = (),
        **measured: Any,
    ) -> DistillationResult:
        words = list(warnings)
        for name, gradients in (("student", student), ("teacher", teacher)):
            if gradients is not None:
                rms, zeros = root_mean_square(gradients), zero_share(gradients)
                measured |= {f"{name}_rms": rms, f"{name}_zero_share": zeros}
                words += gradient_warnings(name, rms, zeros)
        return DistillationResult(loss=step.task_loss.detach(), warnings=tuple(words), **measured)
