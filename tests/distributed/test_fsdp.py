"""FSDP2: at features, N ranks give what one process gives on the whole batch; elsewhere it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.distributed.processes import Place, Run, differences, on_ranks
from tests.distributed.test_ddp import EVERY, KINDS
from tests.distributed.training import SHARDED, batch, make, new_model, penalises, sharded, train, where


def refused(place: Place) -> list[Tensor]:
    """DTensors and freed parameters, each with its way out; nothing is written."""
    if place.world == 1:
        return [torch.zeros(1)]
    for method, at, early, parts, text in [
        ("MGDA", "params", True, "root", r"shared_params item 0 is a DTensor.*Pass features= instead"),
        ("GradNorm", "both", True, "root", r"shared_params item 0 is a DTensor.*Pass features= instead"),
        ("CosReg", "both", False, "all parts, root", r"is a DTensor.*Pass features= instead"),
        ("CosReg", "params", False, "root", r"CosReg needs.*set_reshard_after_backward\(False\)"),
        ("CosReg", "features", False, "root", r"CosReg needs.*set_reshard_after_backward\(False\)"),
        ("CosReg", "features", False, "encoder, heads, root", r"set_reshard_after_backward\(False\)"),
        ("GradientPenalty", "features", False, "each head, root", r"set_reshard_after_backward\(False\)"),
    ]:
        model = new_model()
        forward = sharded(model, parts, place)
        before = where(model, torch.zeros(0), at)  # a module of its own gathers its parameters in forward
        inputs, targets = batch(0)
        features, losses = forward(place.part(inputs), place.part(targets))
        given = {
            **where(model, features, at),
            **({"shared_params": before["shared_params"]} if early else {}),
        }
        with pytest.raises((TypeError, RuntimeError), match=text):
            make(method, place).backward(losses, **given)
        assert all(parameter.grad is None for parameter in model.parameters())
    return [torch.zeros(1)]


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    every = [Run("refused", refused)]
    for method in KINDS:  # the root keeps its parameters whole from forward to backward
        every.append(Run(f"{method}, params", train, {"method": method, "form": "root", "at": "params"}))
    for parts in SHARDED:
        for method in EVERY if parts == "root" else KINDS:
            settings = {"method": method, "form": parts}
            every.append(Run(f"{method}, {parts}", train, settings))
            if not penalises(method) and parts in ("root", "all parts, root") and method in KINDS:
                every.append(Run(f"{method}, neck, {parts}", train, settings | {"shared_neck": True}))
    assert not (wrong := differences(every, on_ranks(every, 2, tmp_path))), "\n".join(wrong)
