"""A model's metrics and mean losses on a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyloss.lab import checks
from manyloss.lab.problem import Problem
from manyloss.lab.training.state import Means

if TYPE_CHECKING:
    from torchmetrics import Metric


@torch.no_grad()
def evaluate(
    problem: Problem, model: nn.Module, metrics: Mapping[str, Metric], batches: Iterable[tuple[Any, Any, int]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics (with the derived ones) and mean losses over batches of inputs, targets and their number."""
    model.eval()
    for metric in metrics.values():
        metric.reset()
    means = Means()
    for inputs, targets, count in batches:
        _, outputs = model(inputs)
        outputs = {name: _contiguous(output) for name, output in outputs.items()}
        problem.update_metrics(metrics, outputs, targets)
        losses = problem.active_losses(problem.compute_losses(outputs, targets))
        means.add({name: float(loss) for name, loss in losses.items() if loss is not None}, count)
    model.train()
    values = {name: _one_number(name, metric) for name, metric in metrics.items()}
    if problem.selected is None:
        values |= problem.derive(values)
    return values, means.means()


def decisions(metric: Any) -> int:
    """Of how many decisions an accuracy is the right share; 0 for metrics of another kind."""
    if not any("Accuracy" in kind.__name__ for kind in type(metric).__mro__):
        return 0
    right, wrong = getattr(metric, "tp", None), getattr(metric, "fn", None)
    if not isinstance(right, Tensor) or not isinstance(wrong, Tensor):
        return 0
    return int(right.sum() + wrong.sum())


def _one_number(name: str, metric: Any) -> float:
    """NaN for a metric that no batch fed (its labels are all missing)."""
    if not metric.update_called:
        return math.nan
    value = metric.compute()
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    raise checks.not_a_number(name, value)


def _contiguous(output: Any) -> Any:
    """For metrics that view a tensor in another shape: channels may come last."""
    return output.contiguous() if isinstance(output, Tensor) else output
