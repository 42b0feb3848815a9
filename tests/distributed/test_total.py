"""multi.total on two ranks: outside of DDP's forward, inside of it, and accumulated; and multi.cut."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manyloss import MultiLoss
from tests.distributed.processes import Place, Run, differences, on_ranks
from tests.distributed.training import STEPS, batch, losses_of, make, new_model, where, wrapped


def outside(place: Place, method: str, at: str, form: str, **ddp: bool) -> list[Tensor]:
    model = new_model()
    forward = wrapped(model, form, place, **ddp)
    multi = make(method, place)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs, targets = batch(step)
        features, losses = forward(place.part(inputs), place.part(targets))
        (multi.total(losses, **where(model, features, at)) * 3.0).backward()
        optimizer.step()
    return [*model.parameters(), *multi.last.weights.values()]


class WithTotal(nn.Module):
    """What a trainer wraps: its forward is the training step."""

    def __init__(self, multi: MultiLoss) -> None:
        super().__init__()
        self.model = new_model()
        self.multi = multi

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        features, outputs = self.model(inputs, targets)
        return self.multi.total(losses_of(outputs, targets), features=features)


def inside(place: Place, method: str, **ddp: bool) -> list[Tensor]:
    """The total is what DDP's forward returns; two micro-batches, the first without a reduction."""
    module = WithTotal(make(method, place))
    wrapped = module if place.world == 1 else DistributedDataParallel(module, **ddp)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(2):
            inputs, targets = batch(2 * step + micro)
            waits = place.world > 1 and micro == 0 and not ddp
            with wrapped.no_sync() if waits else nullcontext():
                (wrapped(place.part(inputs), place.part(targets)) / 2).backward()
        optimizer.step()
    return list(module.parameters())


class Nested(nn.Module):
    """Two stages, both cut; every head looks at both. The second rank's forward is wrapped by DDP."""

    def __init__(self, multi: MultiLoss) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stages = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 5)]).double()
        self.heads = nn.ModuleDict({name: nn.Linear(10, 1) for name in "abc"}).double()
        self.multi = multi

    def forward(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        first = self.multi.cut(torch.tanh(self.stages[0](inputs)))
        second = self.multi.cut(torch.tanh(self.stages[1](first)))
        outputs = {name: head(torch.cat([first, second], 1)) for name, head in self.heads.items()}
        return losses_of(outputs, targets)


def nested(place: Place, method: str, read: str, **ddp: bool) -> list[Tensor]:
    module = Nested(make(method, place, read=read))
    wrapped = module if place.world == 1 else DistributedDataParallel(module, **ddp)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs, targets = batch(step)
        result = module.multi.backward(wrapped(place.part(inputs), place.part(targets)))
        optimizer.step()
    return [*module.parameters(), *result.weights.values()]


def refused(place: Place) -> list[Tensor]:
    if place.world > 1:
        wrapped = DistributedDataParallel(WithTotal(MultiLoss()), find_unused_parameters=True)
        inputs, targets = batch(0)
        with pytest.raises(RuntimeError, match=r"looks for parameters behind what the forward returns"):
            wrapped(place.part(inputs), place.part(targets))
    return [torch.zeros(1)]


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    methods = ["MGDA", "GradNorm", "GradNorm, GradDrop", "Uncertainty, GradDrop, CosReg"]
    runs = [
        Run(f"{method}, {at}, {form}", outside, {"method": method, "at": at, "form": form})
        for method in methods
        for at in ("features", "both")
        for form in ("whole", "inside")
    ]
    runs += [Run("at params", outside, {"method": "MGDA", "at": "params", "form": "whole"})]
    runs += [
        Run(f"outside, {mode}", outside, {"method": "MGDA", "at": "features", "form": "whole", mode: True})
        for mode in ("static_graph", "find_unused_parameters")
    ]
    runs += [Run(f"{method}, inside", inside, {"method": method}) for method in methods]
    runs += [Run("inside, static_graph", inside, {"method": "MGDA", "static_graph": True})]
    runs += [
        Run(f"nested, {method}, {read}", nested, {"method": method, "read": read})
        for method in ("MGDA", "GradDrop per example")
        for read in ("auto", "per_loss")
    ]
    runs += [
        Run(f"nested, {mode}", nested, {"method": "MGDA", "read": "auto", mode: True})
        for mode in ("static_graph", "find_unused_parameters")
    ]
    runs += [Run("refused", refused)]
    assert not (wrong := differences(runs, on_ranks(runs, 2, tmp_path))), "\n".join(wrong)
