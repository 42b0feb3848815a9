"""Problem: what is trained, in plain Python. It knows no method; the arms bring those.

A problem needs an encoder, heads, losses, metrics and data. Everything else has a default::

    class TwoDigits(Problem):
        name = "two-digits"
        losses = {"left": F.cross_entropy, "right": F.cross_entropy}
        metrics = {"left": partial(MulticlassAccuracy, 10), "right": partial(MulticlassAccuracy, 10)}

        def datasets(self, seed): return Splits(train, validation, test)
        def encoder(self): return nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU())
        def heads(self): return {"left": nn.Linear(64, 10), "right": nn.Linear(64, 10)}
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, default_collate

from manyloss.lab import checks
from manyloss.lab.pictures import Pictures

if TYPE_CHECKING:
    from torchmetrics import Metric

    from manyloss import MultiLoss, StepResult
    from manyloss.lab.training import Trainer

Features = Tensor | Sequence[Tensor]
Outputs = Mapping[str, Any]
Targets = Mapping[str, Any]


@runtime_checkable
class BatchedSplit(Protocol):
    """A split that makes whole batches itself: the fast way, and the place for augmentation.

    ``generator`` is the trial's data generator in training and None in evaluation. Whatever is random in a
    batch must come from it: then every arm sees the same batches, and a resumed trial sees them again.
    """

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Any, Targets]:
        """The inputs and targets of these examples, collated."""
        ...


class TensorSplit(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Examples held in memory: ``inputs`` [N, ...] and, for every task, targets [N, ...].

    ``augment(inputs, generator)`` changes training batches and is not called in evaluation.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Mapping[str, Tensor],
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    ) -> None:
        for task, target in targets.items():
            if len(target) != len(inputs):
                raise ValueError(
                    f"targets of task {task!r} have {len(target)} rows, the inputs have {len(inputs)}: "
                    f"give one row per example."
                )
        self.inputs = inputs
        self.targets = dict(targets)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.inputs[index], {task: target[index] for task, target in self.targets.items()}

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The examples at ``indices`` [B]: inputs [B, ...] and targets [B, ...]."""
        inputs = self.inputs[indices]
        if self.augment is not None and generator is not None:
            inputs = self.augment(inputs, generator)
        return inputs, {task: target[indices] for task, target in self.targets.items()}


@dataclass(frozen=True)
class Splits:
    """The data of a problem: map-style datasets of ``(input, {task: target})`` pairs, or `TensorSplit`.

    The best epoch is chosen on ``validation``; ``test`` is read once, at the end.
    """

    train: Dataset[Any] | BatchedSplit
    validation: Dataset[Any] | BatchedSplit
    test: Dataset[Any] | BatchedSplit


@dataclass(frozen=True)
class FinalEvaluation:
    """What a problem finds out about a finished model beyond its metrics.

    ``metrics`` join the test metrics (name them in ``derived``), ``words`` are short texts with a column of
    the table each, ``remarks`` are sentences below it, and ``record`` is kept in result.json only.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


class EncoderWithHeads(nn.Module):
    """One encoder that all losses share, one head per task: ``forward(x) -> (features, {task: output})``.

    ``selected`` limits which heads are run (an arm with one task pays for one head only).
    """

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        # ModuleDict refuses "." and the names of its own attributes; heads keep the user's names outside.
        self.tasks = tuple(heads)
        self.heads = nn.ModuleList(heads.values())
        self.selected: tuple[str, ...] | None = None

    def forward(self, inputs: Any) -> tuple[Features, dict[str, Any]]:
        """Features [B, *F] and one output per (selected) task."""
        features = self.encoder(inputs)
        return features, {task: head(features) for task, head in self.chosen_heads()}

    def chosen_heads(self) -> list[tuple[str, nn.Module]]:
        """The heads that are run, by task."""
        heads = zip(self.tasks, self.heads, strict=True)
        return [(task, head) for task, head in heads if self.selected is None or task in self.selected]


class Problem:
    """What is trained. Subclass it, set the class attributes, and write `datasets`, `encoder` and `heads`.

    Keyword arguments of the constructor are the problem's options (``--data mnist`` gives ``data="mnist"``);
    they must be JSON values, since they are part of what identifies a trial.
    """

    name: str = ""
    epochs: int = 10
    batch_size: int = 64
    #: Batch size of validation and test.
    evaluation_batch_size: int = 1024
    #: Clip the norm of the whole gradient before the optimiser's step; None does not.
    clip_gradients: float | None = None
    #: loss name -> loss(output[name], target[name]), a scalar.
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {}
    #: "task" or "task/metric name" -> a function that makes a torchmetrics metric.
    metrics: Mapping[str, Callable[[], Metric]] = {}
    #: Metrics that `derive` computes from the others: name -> is higher better?
    derived: Mapping[str, bool] = {}
    #: Arms (`manyloss.lab.Arm`) of this problem only, or changed ones, by name.
    arms: Mapping[str, Any] = {}
    #: A metric that the report draws against another one, trial by trial, or against an option of the arms.
    drawn_against: Mapping[str, str] = {}
    #: The arm every other one is compared with.
    baseline: str = "equal"
    #: Losses that an arm with fewer tasks trains; None means all.
    selected: tuple[str, ...] | None = None
    #: Test the last epoch's weights, not the best one's: for methods whose strength grows with the epochs.
    keep_last: bool = False
    #: Metrics that are tested after the last epoch, too, beside those of the epoch that was chosen.
    tested_last: tuple[str, ...] = ()
    #: In so many first epochs the losses' gradients are measured at every step, after that now and then.
    measured_epochs: float = 0
    #: Train the model with channels last: convolutions and pools are often faster so, on a CPU, too.
    channels_last: bool = False
    #: How many test examples the report shows, by `pictures`.
    shown: int = 0

    # -- to be written -----------------------------------------------------------------------------------

    def datasets(self, seed: int) -> Splits:
        """The three splits. ``seed`` is the trial's; use it only if the data should differ between seeds."""
        raise checks.LabError(
            f"{type(self).__name__} has no datasets(seed). Return Splits(train, validation, test)."
        )

    def encoder(self) -> nn.Module:
        """The part that all losses share: inputs -> features [B, *F]."""
        raise checks.LabError(f"{type(self).__name__} has no encoder(). Return the shared nn.Module.")

    def heads(self) -> Mapping[str, nn.Module]:
        """One head per task: features -> output."""
        raise checks.LabError(f"{type(self).__name__} has no heads(). Return {{task: nn.Module}}.")

    # -- with defaults -----------------------------------------------------------------------------------

    def model(self) -> nn.Module:
        """The network: its forward returns ``(features, {task: output})``.

        Built under the trial's seed, so the initial weights depend on (problem, seed) only.
        """
        return EncoderWithHeads(self.encoder(), self.heads())

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam at 1e-3 unless the problem says otherwise."""
        return torch.optim.Adam(parameters, lr=1e-3)

    def schedule(self, optimizer: Optimizer) -> LRScheduler | None:
        """A learning-rate schedule, stepped after every epoch (``self.epochs`` is the trial's)."""
        return None

    def shared_params(self, model: nn.Module) -> Sequence[Tensor] | None:
        """Where GradNorm (its W) and CosReg measure: by default the encoder's last layer with a matrix."""
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, nn.Module):
            return None
        layers = [
            [p for p in module.parameters(recurse=False) if p.requires_grad] for module in encoder.modules()
        ]
        with_matrix = [layer for layer in layers if any(p.dim() >= 2 for p in layer)]
        candidates = with_matrix or [layer for layer in layers if layer]
        return candidates[-1] if candidates else None

    def compared_at(self, model: nn.Module) -> Sequence[Tensor] | None:
        """The parameters at which methods compare gradients; None for the features.

        Override it where losses have rows of their own in a batch, or where there are no features.
        """
        return None

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """One scalar per loss; None for a loss whose target is missing in this batch.

        Override it for losses that read several outputs, weighted examples or missing labels, and set
        `loss_names` too if the names are not those of ``losses``.
        """
        return {
            name: loss(outputs[name], targets[name])
            if name in outputs and targets.get(name) is not None
            else None
            for name, loss in self.losses.items()
        }

    def update_metrics(self, metrics: Mapping[str, Metric], outputs: Outputs, targets: Targets) -> None:
        """Feed one batch to the metrics (by full name): ``metric.update(output[task], target[task])``."""
        for name, metric in metrics.items():
            task = name.partition("/")[0]
            if targets.get(task) is not None:
                metric.update(outputs[task], targets[task])

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The metrics named in ``derived``, computed from the values of the others.

        They are shown, but they count neither in the choice of the best epoch nor in relative changes.
        """
        return {}

    def training_step(
        self,
        model: nn.Module,
        multi: MultiLoss,
        inputs: Any,
        targets: Targets,
        shared_params: Sequence[Tensor] | None,
    ) -> StepResult:
        """Forward and backward of one batch: leaves gradients in ``.grad``; the trial steps the optimiser."""
        features, losses = self.features_and_losses(model, inputs, targets)
        return multi.backward(losses, features=features, shared_params=shared_params)

    def features_and_losses(
        self, model: nn.Module, inputs: Any, targets: Targets
    ) -> tuple[Features | None, dict[str, Tensor | None]]:
        """The forward pass of one batch, with the losses that the arm trains."""
        features, outputs = model(inputs)
        return features, self.active_losses(self.compute_losses(outputs, targets))

    def measured_losses(
        self, model: nn.Module, inputs: Any, targets: Targets
    ) -> tuple[Features | None, dict[str, Tensor | None]] | None:
        """Features and losses whose per-loss gradients are recorded now and then; None records no gradients.

        Override it together with `training_step`.
        """
        return self.features_and_losses(model, inputs, targets)

    def collate_fn(self, samples: Sequence[Any]) -> tuple[Any, Targets]:
        """Samples ``(input, {task: target})`` of a split -> one batch; torch's default stacks them."""
        try:
            inputs, targets = default_collate(list(samples))
        except (TypeError, RuntimeError, KeyError) as error:
            for _, of_tasks in samples:
                for task, target in of_tasks.items():
                    if target is None:
                        raise checks.target_is_none(self.name, task) from error
            raise checks.LabError(
                f"{self.name}: the samples of a split cannot be stacked to a batch ({error}). Give them one "
                "size and the same tasks, or write collate_fn(samples), which may pad them."
            ) from error
        return inputs, targets

    def prepare(self, model: nn.Module, trainer: Trainer) -> None:
        """Change the model in place once all is built and before the first step: compile parts of it."""

    def training_precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Around every training step, such as an autocast; evaluation is in full precision."""
        return nullcontext()

    def start_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Before an epoch (counted from 0): the place for ``trainer.set_progress(epoch / self.epochs)``."""

    def after_epoch(self, model: nn.Module, splits: Splits, epoch: int) -> Mapping[str, float]:
        """What is worth a curve in the report beyond the metrics, by name; ``epoch`` counts from 1.

        Nothing is chosen by it. The training puts random generators and the model's mode back.
        """
        return {}

    def pictures(self, inputs: Any, outputs: Outputs, targets: Targets) -> Pictures | None:
        """What the report shows of the first ``shown`` test examples, collated to a batch."""
        return None

    def final_evaluation(self, model: nn.Module, splits: Splits, context: Any) -> FinalEvaluation | None:
        """Look closer at the finished model, once, with the weights that the test split meets.

        ``context`` is the `ArmContext` that the arm was built with.
        """
        return None

    def reasons(self, trials: Mapping[str, Sequence[Any]]) -> Sequence[str]:
        """Why a claim's numbers are what they are, where the problem knows: sentences beside the verdict.

        ``trials`` are the finished ones of every arm, each a `TrialRecord`.
        """
        return ()

    # -- read by the lab ---------------------------------------------------------------------------------

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The names of all losses, in order."""
        return tuple(self.losses)

    @property
    def active_names(self) -> tuple[str, ...]:
        """The names of the losses that are trained: all, or those that the arm selected."""
        return self.loss_names if self.selected is None else self.selected

    def active_losses(self, losses: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        """Only the losses that are trained."""
        return {name: losses.get(name) for name in self.active_names}

    @cached_property
    def metric_names(self) -> dict[str, str]:
        """Full metric name ("left/accuracy") -> key in ``metrics``."""
        names = {}
        for key, make in self.metrics.items():
            names[key if "/" in key else f"{key}/{readable_name(type(make()).__name__)}"] = key
        return names

    def make_metrics(self) -> dict[str, Metric]:
        """Fresh metrics by full name, of the tasks that are trained."""
        return {
            name: self.metrics[key]()
            for name, key in self.metric_names.items()
            if self.selected is None or name.partition("/")[0] in self.selected
        }

    def metric_directions(self) -> dict[str, dict[str, Any]]:
        """For each metric: its task, whether higher is better, and whether it is derived from the others."""
        directions: dict[str, dict[str, Any]] = {}
        for name, key in self.metric_names.items():
            metric = self.metrics[key]()
            if metric.higher_is_better is None:
                raise checks.LabError(
                    f"{self.name}: metric {name!r} ({type(metric).__name__}) does not say whether higher is "
                    f"better. Set `higher_is_better = True` or `False` on its class."
                )
            directions[name] = {
                "task": name.partition("/")[0],
                "higher_is_better": bool(metric.higher_is_better),
                "derived": False,
            }
        for name, higher in self.derived.items():
            directions[name] = {"task": name.partition("/")[0], "higher_is_better": higher, "derived": True}
        last = {self.after_last_epoch(name): directions[name] for name in self.tested_last}
        return directions | {name: {**about, "derived": True} for name, about in last.items()}

    @staticmethod
    def after_last_epoch(name: str) -> str:
        """What a metric of `tested_last` is called."""
        return f"{name}, last epoch"

    def score(self, values: Mapping[str, float], first: Mapping[str, float]) -> float:
        """One number per epoch, higher is better: the epoch with the highest one on validation is kept.

        The mean over metrics of the signed value. A metric with declared bounds (accuracy, F1, IoU) counts as
        it is; any other is divided by its size after the first epoch, so that units do not matter.
        """
        total = 0.0
        directions = self.metric_directions()
        metrics = self.make_metrics()
        for name, metric in metrics.items():
            bounded = metric.plot_upper_bound is not None and metric.plot_lower_bound is not None
            scale = 1.0 if bounded else abs(first[name])
            if scale == 0 or not math.isfinite(scale):
                scale = 1.0
            sign = 1.0 if directions[name]["higher_is_better"] else -1.0
            total += sign * values[name] / scale
        return total / max(len(metrics), 1)


def readable_name(class_name: str) -> str:
    """A metric class's name in words: ``MeanSquaredError`` -> ``mean squared error``."""
    stripped = re.sub(r"^(Multiclass|Multilabel|Binary)(?=[A-Z])", "", class_name)
    words: list[str] = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z][a-z0-9]*|[a-z0-9]+", stripped)
    return " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in words)
