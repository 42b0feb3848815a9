"""Lightning, by its manual optimisation: a mixin whose ``multi_backward`` stands for ``manual_backward``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyloss.losses import Losses
from manyloss.result import StepResult
from manyloss.step import MultiLoss

_KEYWORD = "manyloss_step"


class MultiLossMixin:
    """Comes before ``LightningModule`` in the list of base classes. ::

        class Model(MultiLossMixin, LightningModule):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False
                self.multi = MultiLoss(GradNorm())  # its state goes into every checkpoint

            def training_step(self, batch, index):
                features, losses = ...
                self.optimizers().zero_grad()
                self.multi_backward(losses, features=features)
                self.optimizers().step()

    Everything that Lightning does around a backward (hooks, precision, DDP) is done. ``end_epoch`` of
    ``self.multi`` is called after each epoch: call ``super()`` in ``on_train_epoch_end``.
    """

    multi: MultiLoss

    def multi_backward(
        self,
        losses: Losses,
        features: Tensor | Sequence[Tensor] | None = None,
        shared_params: Tensor | Iterable[Tensor] | None = None,
    ) -> StepResult:
        """``self.multi.backward`` inside of Lightning's ``manual_backward``."""
        step = _Step(losses, features, shared_params)
        self.manual_backward(_total(losses), **{_KEYWORD: step})  # type: ignore[attr-defined]
        assert step.result is not None
        return step.result

    def backward(self, loss: Tensor, *args: Any, **keywords: Any) -> None:
        """Lightning calls it with the (scaled) sum of the losses."""
        step = keywords.pop(_KEYWORD, None)
        if step is None:
            super().backward(loss, *args, **keywords)  # type: ignore[misc]
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # type: ignore[attr-defined]
        step.result = self.multi.backward(step.losses, step.features, step.shared_params, grad_scaler=scaler)

    def on_train_epoch_end(self) -> None:
        """For methods that use epoch means."""
        super().on_train_epoch_end()  # type: ignore[misc]
        self.multi.end_epoch()


class _Step:
    """What one ``multi_backward`` carries through Lightning, and brings back."""

    def __init__(self, losses: Losses, features: Any, shared_params: Any) -> None:
        self.losses = losses
        self.features = features
        self.shared_params = shared_params
        self.result: StepResult | None = None


def _total(losses: Losses) -> Tensor:
    if isinstance(losses, Tensor):
        return losses.sum()
    values = losses.values() if isinstance(losses, Mapping) else losses
    return torch.stack([loss for loss in values if loss is not None]).sum()
