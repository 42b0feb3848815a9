"""Trying a user's problem out with small batches, so that its mistakes show before any trial starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from manyloss.lab import checks
from manyloss.lab.problem import Problem, Splits
from manyloss.lab.runs.source import own_traceback
from manyloss.lab.training import take_batch


@dataclass(frozen=True)
class TriedOut:
    """What one small batch told."""

    #: About how many seconds an epoch of plain training takes.
    seconds: float
    #: Where gradients are measured, in words.
    measured_at: str
    splits: Splits


def try_out(problem: Problem, seed: int) -> TriedOut:
    """Run small batches through a user's problem, so that its mistakes show before any trial starts.

    Raises:
        BrokenProblemError: the user's code fails; the text is its own traceback.
        LabError: a sample, an output or a loss is not what it should be.

    """
    with own_traceback("its metrics were made"):
        problem.metric_directions()
    with own_traceback(f"datasets({seed}) was called"):
        splits = problem.datasets(seed)
    for name in ("train", "validation", "test"):
        if not hasattr(splits, name):
            raise checks.not_splits(problem.name, splits)
        if len(getattr(splits, name)) == 0:
            raise checks.empty_split(problem.name, name)
    with own_traceback("its model was made"):
        model = problem.model()
        problem.optimizer(model.parameters())
        shared = problem.shared_params(model)
    with own_traceback("one batch was taken from the training split"):
        indices = torch.arange(min(4, len(splits.train)))  # type: ignore[arg-type]
        inputs, targets = take_batch(problem, splits.train, indices, torch.Generator().manual_seed(0))
    with own_traceback("one batch ran through its model"), torch.no_grad():
        model.eval()
        found = model(inputs)
    outputs = _checked_outputs(problem.name, found)
    with own_traceback("its losses were computed on one batch"), torch.no_grad():
        losses = problem.compute_losses(outputs, targets)
    _check_losses(problem, losses)
    with own_traceback("one batch was given to its metrics"), torch.no_grad():
        metrics = problem.make_metrics()
        problem.update_metrics(metrics, outputs, targets)
    for name, metric in metrics.items():
        if not metric.update_called and name.partition("/")[0] not in targets:
            raise checks.metric_without_target(name, problem.metric_names[name], targets)
    with own_traceback("one batch was trained on"):
        seconds = _seconds_per_epoch(problem, splits.train, model)
    return TriedOut(seconds, _in_words(model, shared), splits)


def _checked_outputs(problem: str, found: Any) -> Mapping[str, Any]:
    """The outputs by name of what a model returned; an error that says what it may return."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
        raise checks.not_outputs(problem, found)
    outputs: Mapping[str, Any] = found[1]
    return outputs


def _check_losses(problem: Problem, losses: Any) -> None:
    if not isinstance(losses, Mapping) or set(losses) - set(problem.loss_names):
        raise checks.not_losses(problem.name, losses, problem.loss_names)
    for name, loss in losses.items():
        if loss is not None and (not isinstance(loss, torch.Tensor) or loss.numel() != 1):
            raise checks.not_one_loss(problem.name, name, loss)
    odd = [
        f"loss {name!r} is {float(loss):g}"
        for name, loss in losses.items()
        if loss is not None and not torch.isfinite(loss)
    ]
    if odd:
        raise checks.loss_is_not_finite(problem.name, ", ".join(odd))


def _in_words(model: nn.Module, shared: Sequence[torch.Tensor] | None) -> str:
    """Where gradients are measured: the features, or the names of the shared parameters."""
    if not shared:
        return "the features"
    names = {id(param): name for name, param in model.named_parameters()}
    known = [names.get(id(param), "a tensor") for param in shared]
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    return ", ".join(known[:3]) + more


def _seconds_per_epoch(problem: Problem, split: Any, model: nn.Module) -> float:
    """Forward and backward of one whole batch, times the number of batches."""
    size = min(problem.batch_size, len(split))
    indices, generator = torch.arange(size), torch.Generator().manual_seed(0)
    model.train()
    started = time.perf_counter()
    inputs, targets = take_batch(problem, split, indices, generator)
    _, outputs = model(inputs)
    losses = [loss for loss in problem.compute_losses(outputs, targets).values() if loss is not None]
    total = sum(losses, torch.zeros(()))
    if total.requires_grad:
        torch.autograd.backward(total)
    return (time.perf_counter() - started) * max(1, len(split) // problem.batch_size)
