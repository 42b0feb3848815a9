"""From a split to the batch of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manyloss.lab import checks
from manyloss.lab.problem import BatchedSplit, Problem


def take_batch(
    problem: Problem, split: Any, indices: Tensor, generator: torch.Generator | None
) -> tuple[Any, Any]:
    """The inputs and targets of these examples, collated by the split itself or by the problem."""
    if isinstance(split, BatchedSplit):
        return split.batch(indices, generator)
    samples = [split[i] for i in indices.tolist()]
    own = type(problem).collate_fn is not Problem.collate_fn
    if not own:
        check_sample(problem.name, samples[0])
    batch = problem.collate_fn(samples)
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Mapping):
        raise checks.not_a_batch(problem.name, batch)
    return batch[0], batch[1]


def check_sample(problem: str, sample: Any) -> None:
    """Torch's collating takes a pair of an input and targets by task, without None inside."""
    if not isinstance(sample, tuple | list) or len(sample) != 2 or not isinstance(sample[1], Mapping):
        raise checks.not_a_sample(problem, sample)
    for task, target in sample[1].items():
        if target is None:
            raise checks.target_is_none(problem, str(task))


def to_device(value: Any, device: torch.device) -> Any:
    """The tensors of a batch, however they are nested."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value
