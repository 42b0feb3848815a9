"""Hugging Face's Trainer with ``MultiLoss.backward`` in place of ``loss.backward``; needs transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from manyloss.interop.accelerate import backward, refuse_own_backward
from manyloss.result import StepResult
from manyloss.step import MultiLoss

LossesAndFeatures = tuple[Mapping[str, Tensor | None], Tensor | Sequence[Tensor] | None]
STATE = "manyloss.pt"


class MultiLossTrainer(Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains on several losses.

    Mixed precision, gradient accumulation, clipping, DDP and checkpoints are the Trainer's own; the state of
    ``multi`` goes into every checkpoint. The sum of the losses is what it logs and evaluates.

    Args:
        multi: the MultiLoss; ``multi.end_epoch`` is called for you.
        compute_losses: (model outputs, inputs) -> (losses by name, features). The features may be None when
            ``shared_params`` are given, and come from `FeaturesOf` where the model does not return them.
        shared_params: as in ``MultiLoss.backward``.
        **keywords: the Trainer's.

    Attributes:
        last_result: StepResult of the last training step, for callbacks.

    Raises:
        NotImplementedError: DataParallel, DeepSpeed or a LOMO optimiser, which run the backward themselves.

    """

    def __init__(
        self,
        *,
        multi: MultiLoss,
        compute_losses: Callable[[Any, Mapping[str, Any]], LossesAndFeatures],
        shared_params: Iterable[Tensor] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        if self.args.n_gpu > 1:
            refuse_own_backward("DataParallel")
        if "lomo" in str(self.args.optim).lower():
            refuse_own_backward("LOMO")
        self.multi = multi
        self.compute_losses = compute_losses
        self.shared_params = None if shared_params is None else list(shared_params)
        self.last_result: StepResult | None = None
        self.add_callback(_EndEpoch(multi))

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward of one micro-batch."""
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            losses, features = self.compute_losses(model(**inputs), inputs)
        steps = self.current_gradient_accumulation_steps
        self.last_result = backward(
            self.accelerator, self.multi, losses, features, self.shared_params, divide_by=steps
        )
        total = _total(losses).detach()
        return total / float(steps)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum of the losses, for evaluation."""
        outputs = model(**inputs)
        losses, _ = self.compute_losses(outputs, inputs)
        return (_total(losses), outputs) if return_outputs else _total(losses)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            torch.save(self.multi.state_dict(), Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path = Path(checkpoint) / STATE
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} does not exist: the checkpoint was not written by MultiLossTrainer. Resume from "
                    "one that was, or load the model's weights and start anew."
                )
            self.multi.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _total(losses: Mapping[str, Tensor | None]) -> Tensor:
    return torch.stack([loss for loss in losses.values() if loss is not None]).sum()


class _EndEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the methods when an epoch ends."""

    def __init__(self, multi: MultiLoss) -> None:
        self.multi = multi

    def on_epoch_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """For methods that use epoch means."""
        self.multi.end_epoch()
