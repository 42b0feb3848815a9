"""Hugging Face Accelerate: ``backward(accelerator, multi, losses, ...)`` in place of its own backward.

Checkpoints: ``accelerator.register_for_checkpointing(multi)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from torch import Tensor

from manyloss.losses import Losses
from manyloss.result import StepResult
from manyloss.step import MultiLoss

_OWN_BACKWARD = ("DEEPSPEED", "MEGATRON_LM")


def backward(
    accelerator: Any,
    multi: MultiLoss,
    losses: Losses,
    features: Tensor | Sequence[Tensor] | None = None,
    shared_params: Tensor | Iterable[Tensor] | None = None,
    *,
    divide_by: float | None = None,
    measure: bool = False,
) -> StepResult:
    """``multi.backward`` with what ``accelerator.backward`` adds: the scaler, the mean over micro-batches.

    Methods see the losses as they are; only what is written to ``.grad`` is divided by the number of
    accumulation steps. Each micro-batch decides its own weights and masks.

    With mixed precision a prepared model returns copies of what it computed: take the features with
    `FeaturesOf` from the encoder inside it.

    Args:
        accelerator: an ``accelerate.Accelerator``.
        multi: the MultiLoss.
        losses: as in ``MultiLoss.backward``.
        features: as in ``MultiLoss.backward``.
        shared_params: as in ``MultiLoss.backward``.
        divide_by: the number of micro-batches; ``accelerator.gradient_accumulation_steps`` when None.
        measure: as in ``MultiLoss.backward``.

    Raises:
        NotImplementedError: DeepSpeed and Megatron-LM run the backward themselves.

    """
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind in _OWN_BACKWARD:
        refuse_own_backward(kind)
    steps = accelerator.gradient_accumulation_steps if divide_by is None else divide_by
    scaler = accelerator.scaler
    return multi.backward(
        losses,
        features,
        shared_params,
        grad_scaler=scaler if steps == 1 else _Divided(scaler, steps),
        measure=measure,
    )


def refuse_own_backward(kind: str) -> NoReturn:
    """Something that runs the backward itself leaves no room for MultiLoss."""
    raise NotImplementedError(
        f"{kind} runs the backward itself, so gradients cannot be merged in it: use DistributedDataParallel "
        "or FSDP2 (torchrun), and an ordinary optimiser."
    )


class _Divided:
    """A GradScaler, or none, whose scale is divided by the number of micro-batches."""

    def __init__(self, scaler: Any, steps: float) -> None:
        self.scaler = scaler
        self.steps = steps

    def is_enabled(self) -> bool:
        """Whether someone skips a step that is not finite."""
        return self.scaler is not None and bool(self.scaler.is_enabled())

    def scale(self, tensor: Tensor) -> Tensor:
        """Scaled and divided."""
        scaled: Tensor = tensor if self.scaler is None else self.scaler.scale(tensor)
        return scaled / self.steps
