"""What is wrong on one rank is refused on all, in the same step; the next steps go on as if it never was."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.distributed import ranks_of
from manyloss.errors import NotFiniteError, RankError
from manyloss.weighting import MGDA, GradNorm, PCGrad
from tests.distributed.processes import Place, Run, differences, on_ranks
from tests.distributed.training import batch, new_model, where, wrapped

METHODS: dict[str, Callable[[], MultiLoss]] = {
    "MGDA": lambda: MultiLoss(MGDA()),
    "PCGrad": lambda: MultiLoss(PCGrad(seed=3)),
    "GradNorm": lambda: MultiLoss(GradNorm()),
    "GradDrop": lambda: MultiLoss(aggregator=GradDrop(seed=3)),
    "plain": MultiLoss,
}


class NotANumber(torch.autograd.Function):
    """The identity, whose gradient is nan."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.nan


def nothing(losses: dict[str, Tensor]) -> dict[str, Any]:
    return dict.fromkeys(losses)


# fault -> (what the failing rank passes, its error, the text on every rank)
FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], type[Exception], str]] = {
    "no scalar": (
        lambda losses: {**losses, "a": losses["a"].expand(2)},
        ValueError,
        "Loss 'a' must be a scalar",
    ),
    "detached": (
        lambda losses: {**losses, "b": losses["b"].detach()},
        ValueError,
        "'b' does not require grad",
    ),
    "nan": (lambda losses: {**losses, "a": losses["a"] * torch.nan}, NotFiniteError, "Loss 'a' is nan"),
    "another name": (lambda losses: {**losses, "d": losses["a"]}, ValueError, "'d'"),
    "another order": (lambda losses: dict(reversed(losses.items())), ValueError, "another order"),
    "all absent": (nothing, ValueError, "A rank has no losses"),
}


def refused(place: Place, method: str, fault: str, step_of_fault: int, at: str = "features") -> list[Tensor]:
    """Three steps of training; in one of them the last rank passes something wrong first."""
    model = new_model()
    forward, multi = wrapped(model, "whole", place), METHODS[method]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    change, kind, text = FAULTS[fault]
    for step in range(3):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        features, losses = forward(place.part(inputs), place.part(targets))
        if place.world > 1 and step == step_of_fault:
            last = place.rank == place.world - 1
            with pytest.raises(kind if last else RankError, match=text) as error:
                multi.backward(change(losses) if last else losses, **where(model, features, at))
            assert last or f"Rank {place.world - 1} refused this step" in str(error.value)
            assert all(parameter.grad is None for parameter in model.parameters())
        multi.backward(losses, **where(model, features, at))
        optimizer.step()
    return list(model.parameters())


def not_finite_inside(place: Place, method: str, read: str = "auto") -> list[Tensor]:
    """A gradient of one rank is nan: seen in the backward, caught by the user, and DDP goes on."""
    model = new_model()
    forward, multi = wrapped(model, "whole", place), METHODS[method]()
    multi.settings.read = read
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(4):
        inputs, targets = batch(step)
        if place.world > 1 and step == 2:
            optimizer.zero_grad()
            features, losses = forward(place.part(inputs), place.part(targets))
            if place.rank == 0:
                losses["a"] = losses["a"] + 0 * NotANumber.apply(features).sum()
            with pytest.raises(NotFiniteError, match="gradient of loss 'a'"):
                multi.backward(losses, features=features)
            assert all(parameter.grad is None for parameter in model.parameters())
        optimizer.zero_grad()
        features, losses = forward(place.part(inputs), place.part(targets))
        multi.backward(losses, features=features)
        optimizer.step()
    return list(model.parameters())


def other_losses(place: Place, change: str) -> list[Tensor]:
    """Ranks that pass other names, another order or another number are told at the first step."""
    model = new_model()
    forward, multi = wrapped(model, "whole", place), MultiLoss(GradNorm())
    inputs, targets = batch(0)
    features, losses = forward(place.part(inputs), place.part(targets))
    if place.world > 1:
        given = dict(losses)
        if place.rank == 1:
            given = {
                "order": dict(reversed(losses.items())),
                "name": {name.replace("b", "other"): loss for name, loss in losses.items()},
                "number": {name: loss for name, loss in losses.items() if name != "b"},
            }[change]
        text = {
            "order": "rank 0 passes 'a', 'b', 'c', rank 1 passes 'c', 'b', 'a'",
            "name": "only rank 0 has 'b', only rank 1 has 'other'",
            "number": "only rank 0 has 'b', only rank 1 has none",
        }[change]
        with pytest.raises(ValueError, match=f"The ranks pass different losses: {text}"):
            multi.backward(given, features=features)
        assert multi.names is None
    multi.backward(losses, features=features)
    return [parameter.grad for parameter in model.parameters()]


def patience(place: Place) -> list[Tensor]:
    """The group made for a MultiLoss waits as long as the user's own does."""
    if place.world > 1:
        group = dist.new_group([0, 1], timeout=datetime.timedelta(seconds=15))
        ours = ranks_of(group).group
        options = ours._get_backend(torch.device("cpu")).options
        assert options._timeout == datetime.timedelta(seconds=15)
    return [torch.zeros(1)]


def test_two_ranks(tmp_path: Path) -> None:
    every = [
        Run(
            f"{fault}, step {step}, {method}",
            refused,
            {"method": method, "fault": fault, "step_of_fault": step},
        )
        for fault in FAULTS
        for step, method in [(0, "MGDA"), (1, "GradNorm"), (1, "GradDrop"), (2, "plain")]
        if step or "another" not in fault  # at the first step these are differences between the ranks
    ]
    every += [
        Run(
            f"{fault}, params",
            refused,
            {"method": "PCGrad", "fault": fault, "step_of_fault": 1, "at": "params"},
        )
        for fault in FAULTS
    ]
    every += [
        Run(f"nan inside, {method}, {read}", not_finite_inside, {"method": method, "read": read})
        for method in ("MGDA", "PCGrad", "GradNorm", "GradDrop")
        for read in ("auto", "per_loss")
    ]
    every += [
        Run(f"other losses: {change}", other_losses, {"change": change})
        for change in ("order", "name", "number")
    ]
    every.append(Run("patience", patience))
    assert not (wrong := differences(every, on_ranks(every, 2, tmp_path))), "\n".join(wrong)
