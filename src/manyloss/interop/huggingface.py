"""Hugging Face's Trainer on several losses: ``multi.total`` as its loss; needs transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from manyloss.losses import Features, Losses, SharedParams
from manyloss.result import StepResult
from manyloss.step import MultiLoss

STATE = "manyloss.pt"


class MultiLossTrainer(Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains on several losses.

    Mixed precision, gradient accumulation, clipping, DDP and checkpoints are the Trainer's own; the state of
    ``multi`` goes into every checkpoint. It logs and evaluates the sum of the losses, and logs every loss and
    weight of the last step beside it.

    Args:
        multi: the MultiLoss; ``multi.end_epoch`` is called for you.
        compute_losses: (model outputs, inputs) -> (losses, features). The features may be None when
            ``shared_params`` are given or the model uses ``multi.cut``, and come from `FeaturesOf` where the
            model does not return them.
        shared_params: as in ``MultiLoss.backward``.
        **keywords: the Trainer's.

    Raises:
        NotImplementedError: DataParallel, DeepSpeed or a LOMO optimiser, which run the backward themselves.

    """

    loss_is_scaled_for_ga = False  # the losses are means of one micro-batch; the Trainer divides their sum

    def __init__(
        self,
        *,
        multi: MultiLoss,
        compute_losses: Callable[[Any, Mapping[str, Any]], tuple[Losses, Features | None]],
        shared_params: SharedParams | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        own = {
            "DataParallel": self.args.n_gpu > 1,
            "DeepSpeed": self.is_deepspeed_enabled,
            "LOMO": "lomo" in str(self.args.optim).lower(),
        }
        for kind in (kind for kind, used in own.items() if used):
            raise NotImplementedError(
                f"{kind} runs the backward itself, so gradients cannot be merged in it: use "
                "DistributedDataParallel or FSDP2 (torchrun), and an ordinary optimiser."
            )
        self.multi = multi
        self.compute_losses = compute_losses
        given = shared_params is None or isinstance(shared_params, (nn.Module, Tensor))
        self.shared_params = shared_params if given else list(shared_params)  # type: ignore[arg-type]
        self.add_callback(_EndEpoch(multi))

    @property
    def last_result(self) -> StepResult | None:
        """What the last training step measured, for callbacks."""
        return self.multi.last

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """``multi.total`` of the losses: their sum, whose backward is the step."""
        outputs = model(**inputs)
        losses, features = self.compute_losses(outputs, inputs)
        scaler = self.accelerator.scaler
        loss = self.multi.total(
            losses,
            features,
            self.shared_params,
            grad_scaler=torch.amp.GradScaler(enabled=False) if scaler is None else scaler,
        )
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *rest: Any, **keywords: Any) -> None:
        """With the training loss, each loss and weight of the last step goes to wherever the Trainer logs."""
        last = self.multi.last
        if "loss" in logs and last is not None:
            logs |= {f"loss/{name}": float(value) for name, value in last.losses.items()}
            weight = last.numbers.removesuffix("s")
            logs |= {f"{weight}/{name}": float(value) for name, value in last.weights.items()}
        super().log(logs, *rest, **keywords)

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


class _EndEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the methods when an epoch ends."""

    def __init__(self, multi: MultiLoss) -> None:
        self.multi = multi

    def on_epoch_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """For methods that use epoch means."""
        self.multi.end_epoch()
