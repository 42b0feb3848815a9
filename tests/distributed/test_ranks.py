"""Ranks that do not have the same: uneven batches, absent losses, other seeds, inf on one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from manyloss import MultiLoss, batch_share
from manyloss.aggregation import GradDrop
from manyloss.weighting import MGDA, GradNorm, IterativePCGrad, PCGrad, Random
from tests.distributed.processes import Place, Run, differences, on_ranks
from tests.distributed.test_ddp import AT_FEATURES_ONLY, EVERY, KINDS
from tests.distributed.training import (
    LOSSES,
    batch,
    losses_of,
    make,
    measures_at_params,
    new_model,
    train,
    where,
    wrapped,
)


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def uneven(place: Place, method: str, at: str = "features", sizes: Sequence[int] = (5, 2)) -> list[Tensor]:
    """The last of three batches is smaller, and not by the same number of examples on each rank."""
    model = new_model()
    forward, multi, optimizer = wrapped(model, "whole", place), make(method, place), sgd(model)
    for step in range(3):
        inputs, targets = batch(step)
        share = 1.0
        if step == 2:
            inputs, targets = inputs[: sum(sizes)], targets[: sum(sizes)]
            if place.world > 1:
                inputs, targets = (
                    inputs.split(list(sizes))[place.rank],
                    targets.split(list(sizes))[place.rank],
                )
                share = batch_share(len(inputs))
        else:
            inputs, targets = place.part(inputs), place.part(targets)
        optimizer.zero_grad()
        features, losses = forward(inputs, targets)
        scaled = {name: share * loss for name, loss in losses.items()}
        multi.backward(scaled, **where(model, features, at))
        optimizer.step()
    return list(model.parameters())


def absent(
    place: Place,
    method: str,
    missing: tuple[str, ...] = ("b",),
    at: str = "features",
    shared_neck: bool = False,
    read: str = "auto",
) -> list[Tensor]:
    """All ranks but the first lack some of the losses in every other step."""
    model = new_model(shared_neck)
    forward = wrapped(model, "whole", place, find_unused_parameters=True)
    multi, optimizer = make(method, place, read=read), sgd(model)
    results: list[Tensor] = []
    for step in range(4):
        gone = missing if step % 2 else ()
        inputs, targets = batch(step)
        optimizer.zero_grad()
        wanted = tuple(name for name in LOSSES if not (place.rank and name in gone))
        features, losses = forward(place.part(inputs), place.part(targets), wanted)
        if place.world == 1 and gone:  # a mean over two ranks, one of which has nothing
            _, half = 0, len(inputs) // 2
            outputs = model.heads(features)
            first = losses_of({name: output[:half] for name, output in outputs.items()}, targets[:half])
            losses = {name: first[name] / 2 if name in gone else loss for name, loss in losses.items()}
        given = {name: losses.get(name) for name in LOSSES}
        result = multi.backward(given, **where(model, features, at))
        assert list(result.losses) == list(LOSSES)
        results += [*result.losses.values(), *result.weights.values()]
        optimizer.step()
    return [*model.parameters(), *results]


class Branch(torch.nn.Module):
    """A part of the shared parameters that only the loss "b" reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = torch.nn.Linear(4, 3)
        self.extra = torch.nn.Linear(4, 3)

    def forward(self, inputs: Tensor, targets: Tensor, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        z = torch.tanh(self.shared(inputs))
        losses = {"a": (z.sum(1) - targets[:, 0]).square().mean()}
        if "b" in wanted:
            losses["b"] = ((z * self.extra(inputs)).sum(1) - targets[:, 1]).square().mean()
        return losses


def parameters_of_one_rank(place: Place, method: str) -> list[Tensor]:
    """Some shared parameters get a gradient on the first rank only; DDP still divides by all ranks."""
    torch.manual_seed(0)
    model = Branch().double()
    whole = model if place.world == 1 else DistributedDataParallel(model, find_unused_parameters=True)
    multi = MultiLoss(MGDA()) if method == "MGDA" else MultiLoss(aggregator=GradDrop(seed=7))
    optimizer = sgd(model)
    for step in range(3):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        losses = whole(place.part(inputs), place.part(targets), ("a",) if place.rank else ("a", "b"))
        if place.world == 1:
            half = len(inputs) // 2
            losses["b"] = model(inputs[:half], targets[:half], ("a", "b"))["b"] / 2
        multi.backward({"a": losses["a"], "b": losses.get("b")}, shared_params=model.parameters())
        optimizer.step()
    return list(model.parameters())


def nothing_on_one(place: Place, method: str) -> list[Tensor]:
    """Every loss is None on one rank: an error on all of them, and the next step goes on."""
    model = new_model()
    forward, multi, optimizer = wrapped(model, "whole", place), make(method, place), sgd(model)
    for step in range(3):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        features, losses = forward(place.part(inputs), place.part(targets))
        if place.world > 1 and step == 1:
            given = dict.fromkeys(LOSSES) if place.rank else losses
            with pytest.raises(ValueError, match=r"A rank has no losses in this step.*0 \* features\.sum"):
                multi.backward(given, features=features)
            assert all(parameter.grad is None for parameter in model.parameters())
        multi.backward(losses, features=features)
        optimizer.step()
    return list(model.parameters())


RANDOM: dict[str, Any] = {
    "Random": lambda: MultiLoss(Random()),
    "PCGrad": lambda: MultiLoss(PCGrad()),
    "IterativePCGrad": lambda: MultiLoss(IterativePCGrad()),
    "GradDrop": lambda: MultiLoss(aggregator=GradDrop()),
    "GradDrop per example": lambda: MultiLoss(aggregator=GradDrop(sum_over_batch=False)),
    "Random, GradDrop": lambda: MultiLoss(Random(), GradDrop()),
    "GradNorm": lambda: MultiLoss(GradNorm()),
}


def resumed(place: Place, method: str) -> list[Tensor]:
    """No seed is given, and the ranks' global generators differ; half way a fresh object goes on."""
    model = new_model()
    forward, multi, optimizer = wrapped(model, "whole", place), RANDOM[method](), sgd(model)
    for step in range(4):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        features, losses = forward(place.part(inputs), place.part(targets))
        multi.backward(losses, features=features)
        optimizer.step()
        if step == 1 and place.world > 1:
            state = multi.state_dict()
            multi = RANDOM[method]()
            multi.load_state_dict(state)
    return list(model.parameters())


def micro_batches(place: Place, method: str, at: str) -> list[Tensor]:
    """Two micro-batches per step; the first of them is not reduced on its own."""
    model = new_model()
    model.inside = True
    whole = model if place.world == 1 else DistributedDataParallel(model)
    multi, optimizer = make(method, place), sgd(model)
    for step in range(3):
        optimizer.zero_grad()
        for half in range(2):
            inputs, targets = (tensor.chunk(2)[half] for tensor in batch(step))
            quiet = whole.no_sync() if place.world > 1 and half == 0 else contextlib.nullcontext()
            with quiet:
                features, losses = whole(place.part(inputs), place.part(targets))
                halves = {name: loss / 2 for name, loss in losses.items()}
                multi.backward(halves, **where(model, features, at))
        optimizer.step()
    return list(model.parameters())


def skipped(place: Place, method: str, kind: str, read: str) -> list[Tensor]:
    """Inf on the last rank only: all ranks skip, and go on as if the step had not been."""
    model = new_model()
    forward, multi, optimizer = wrapped(model, "whole", place), make(method, place, read=read), sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    for step in range(3):
        inputs, targets = batch(step)
        for bad in [True, False] if step == 1 else [False]:
            optimizer.zero_grad()
            features, losses = forward(place.part(inputs), place.part(targets))
            if bad and place.rank == place.world - 1:
                broken = losses["b"] * float("inf") if kind == "loss" else (0.0 * features).abs().sum().sqrt()
                losses["b"] = losses["b"] + broken
            result = multi.backward(losses, features=features, grad_scaler=scaler)
            assert result.skipped == bad
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 2.0**7
    return list(model.parameters())


def in_a_group(place: Place, method: str) -> list[Tensor]:
    """Some of the ranks train together, the others each on their own; both as in one process."""
    if place.world == 1:
        return [torch.zeros(1)]
    group = dist.new_group([0, 1])
    alone, together = new_model(), new_model()
    trained = []
    for model, setting in ((alone, False), (together, group)):
        if setting is group and place.rank > 1:
            break
        part = Place(place.rank, 2) if setting is group else Place()
        whole = DistributedDataParallel(model, process_group=group) if setting is group else model
        multi, optimizer = make(method, Place()), sgd(model)
        multi.settings.distributed = setting
        for step in range(2):
            inputs, targets = batch(step)
            optimizer.zero_grad()
            features, outputs = whole(part.part(inputs), part.part(targets))
            multi.backward(losses_of(outputs, part.part(targets)), features=features)
            optimizer.step()
        trained.append(list(model.parameters()))
    for first, second in zip(trained[0], trained[-1], strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    return [torch.zeros(1)]


def check(every: list[Run], world: int, folder: Path) -> None:
    assert not (wrong := differences(every, on_ranks(every, world, folder))), "\n".join(wrong)


def test_two_ranks(tmp_path: Path) -> None:
    every = [Run(f"uneven, {method}", uneven, {"method": method}) for method in EVERY]
    for method in EVERY:
        if measures_at_params(method):
            every.append(Run(f"uneven, both, {method}", uneven, {"method": method, "at": "both"}))
    for method in KINDS:
        every += [
            Run(f"uneven, params, {method}", uneven, {"method": method, "at": "params"}),
            Run(f"absent, {method}", absent, {"method": method}),
            Run(f"absent, both, {method}", absent, {"method": method, "at": "both"}),
            Run(f"absent, params, {method}", absent, {"method": method, "at": "params"}),
            # one rank could do with one backward, the other could not
            Run(
                f"two absent, neck, {method}",
                absent,
                {"method": method, "missing": ("b", "c"), "shared_neck": True},
            ),
            Run(f"nothing on one, {method}", nothing_on_one, {"method": method}),
            Run(f"micro-batches, {method}", micro_batches, {"method": method, "at": "features"}),
            Run(f"micro-batches, params, {method}", micro_batches, {"method": method, "at": "params"}),
        ]
        for kind in ("loss", "gradient"):
            reads = ("per_loss",) if kind == "loss" else ("auto", "per_loss")
            if method != "Uncertainty" or kind == "loss":  # it reads no gradients
                every += [
                    Run(
                        f"inf {kind}, {read}, {method}",
                        skipped,
                        {"method": method, "kind": kind, "read": read},
                    )
                    for read in reads
                ]
    every += [Run(f"resumed, {method}", resumed, {"method": method}) for method in RANDOM]
    every += [
        Run(f"parameters of one rank, {method}", parameters_of_one_rank, {"method": method})
        for method in ("MGDA", "GradDrop")
    ]
    check(every, 2, tmp_path)


def test_three_ranks(tmp_path: Path) -> None:
    every = [Run("group, MGDA", in_a_group, {"method": "MGDA"})]
    for method in EVERY:
        at = "both" if measures_at_params(method) and method not in AT_FEATURES_ONLY else "features"
        every.append(Run(method, train, {"method": method, "at": at}))
    for method in KINDS:
        every += [
            Run(f"uneven, {method}", uneven, {"method": method, "sizes": (4, 2, 1)}),
            Run(f"params, {method}", train, {"method": method, "at": "params", "static_graph": True}),
        ]
    check(every, 3, tmp_path)


def test_batch_share_alone() -> None:
    assert batch_share(5) == 1.0


def test_distributed_is_off_without_a_process_group() -> None:
    multi = MultiLoss(MGDA(), distributed=True)
    model = new_model()
    features, outputs = model(*batch(0))
    multi.backward(losses_of(outputs, batch(0)[1]), features=features)
    assert multi.weighting.ranks.world == 1
