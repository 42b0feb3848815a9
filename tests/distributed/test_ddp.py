"""DistributedDataParallel: N ranks give what one process gives on the whole batch, bit-equal on the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.distributed.processes import Run, differences, on_ranks
from tests.distributed.training import METHODS, measures_at_params, penalises, train
from tests.properties.methods import CASES

EVERY = list(dict.fromkeys([*(case.name for case in CASES), *METHODS]))
MODES: dict[str, dict[str, bool]] = {
    "plain": {},
    "static_graph": {"static_graph": True},
    "find_unused": {"find_unused_parameters": True},
}
AT_FEATURES_ONLY = {case.name for case in CASES if case.needs_features}


# One of every kind of step, for the ways of wrapping: plain, with norms, gradients, random, penalty.
KINDS = ["Uncertainty", "GradNorm", "MGDA", "GradDrop", "CosReg", "Uncertainty, GradDrop, CosReg"]


def runs(methods: list[str], form: str, mode: str) -> Iterator[Run]:
    for method in methods:
        settings = {"method": method, "form": form, **MODES[mode]}
        changes: dict[str, dict[str, object]] = {"features": {}}
        if measures_at_params(method):
            changes["both"] = {"at": "both"}
        if method not in AT_FEATURES_ONLY:
            changes["params"] = {"at": "params"}
        if not penalises(method):
            changes["per_loss"] = {"read": "per_loss"}
        if mode == "plain" and form == "whole":
            changes["neck"] = {"shared_neck": True}
        for name, change in changes.items():
            yield Run(f"{method}, {name}, {form}, {mode}", train, settings | change)


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    every = [
        run
        for mode in MODES
        for form in ("whole", "inside", "parts")
        if (form, mode) not in {("inside", "plain"), ("inside", "find_unused")}
        for run in runs(EVERY if (form, mode) == ("whole", "plain") else KINDS, form, mode)
    ]
    assert not (wrong := differences(every, on_ranks(every, 2, tmp_path))), "\n".join(wrong)
