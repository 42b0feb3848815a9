"""What one step of a defense or of a way of distilling saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class _Blank:
    def __format__(self, specification: str) -> str:
        return "…"


class Notice(str):
    """A sentence about what goes wrong, made of a template and what was measured.

    Attributes:
        kind: the sentence with … in place of what was measured; notices of one kind can be counted by it.

    """

    def __new__(cls, template: str, **measured: Any) -> Notice:
        """Fill the template, a format string, with the measured values."""
        notice = super().__new__(cls, template.format(**measured))
        notice._made_of = (template, measured)
        notice.kind = template.format(**dict.fromkeys(measured, _Blank()))
        return notice

    _made_of: tuple[str, dict[str, Any]]
    kind: str

    def __reduce__(self) -> tuple[Any, ...]:
        template, measured = self._made_of
        return _notice, (template, measured)


def _notice(template: str, measured: dict[str, Any]) -> Notice:
    return Notice(template, **measured)


def _unknown() -> Tensor:
    return torch.full((), torch.nan, dtype=torch.float64, device="cpu")


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What every step of a `ModelMethod` saw; tensors are detached and 0-d.

    Attributes:
        loss: J of the model that is trained.
        objective: what its `.grad` is the gradient of; NaN when skipped.
        batchnorm_cosine: between the input gradients in train and in eval mode, when asked for.
        warnings: what goes wrong, in sentences.
        skipped: something was not finite, and a GradScaler was given: NaN was passed on, so that it skips the
            step, and nothing was learned.

    """

    loss: Tensor
    objective: Tensor
    batchnorm_cosine: Tensor | None = None
    warnings: tuple[Notice, ...] = ()
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class DefenseResult(ModelResult):
    """What a step of GradientDefense saw; NaN what a skipped step did not get to.

    Attributes:
        accuracy: of the model on the batch.
        auxiliary_loss: cross-entropy of the auxiliary network.
        auxiliary_accuracy: how often it names the class from the gradient.
        logit_drift: growth of mean_b |mean_c z| since the first step.
        gradient_rms: root mean square of the input gradients.
        zero_share: share of the examples whose input gradient is exactly zero.
        alpha: weight of the reversed gradient in this step.
        beta: weight of GREACE in this step.

    """

    alpha: float
    beta: float
    accuracy: Tensor
    auxiliary_loss: Tensor = field(default_factory=_unknown)
    auxiliary_accuracy: Tensor = field(default_factory=_unknown)
    logit_drift: Tensor = field(default_factory=_unknown)
    gradient_rms: Tensor = field(default_factory=_unknown)
    zero_share: Tensor = field(default_factory=_unknown)


@dataclass(frozen=True, kw_only=True)
class DistillationResult(ModelResult):
    """What a step of a way of distilling saw; None what this one does not measure.

    Attributes:
        discriminator_loss: the sum of its two means, teacher 1 and student 0.
        discriminator_accuracy: how often it tells teacher and student apart.
        student_rms: root mean square of the student's input gradients.
        teacher_rms: the same of the teacher's.
        student_zero_share: share of the examples whose input gradient of the student is exactly zero.
        teacher_zero_share: the same of the teacher.

    """

    discriminator_loss: Tensor | None = None
    discriminator_accuracy: Tensor | None = None
    student_rms: Tensor | None = None
    teacher_rms: Tensor | None = None
    student_zero_share: Tensor | None = None
    teacher_zero_share: Tensor | None = None
