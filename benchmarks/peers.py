"""Each method against the same method in TorchJD, on the same model: time of a step and peak memory.

TorchJD's ``mtl_backward`` keeps the [T, P] matrix at the shared parameters; here a step is measured at the
features and, like for like, at the shared parameters. Steps alternate within one run and the medians of the
paired ratios are reported; memory is the peak resident size of a fresh process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.weighting import MGDA, CAGrad, PCGrad, Random
from steps import Setup, linear_heads, time_of


def few_heads(batch: int) -> Setup:
    """The encoder with 4 heads, small enough for a [T, P] matrix."""
    setup = linear_heads(batch)
    setup.name, setup.heads = "4 heads 512-64-1", nn.ModuleList(list(setup.heads)[:4])
    setup.targets = setup.targets[:4]
    return setup


METHODS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], aggregation.Aggregator]]] = {
    "Equal / Sum": (dict, aggregation.Sum),
    "MGDA": (lambda: {"weighting": MGDA()}, aggregation.MGDA),
    "PCGrad": (lambda: {"weighting": PCGrad(seed=0)}, aggregation.PCGrad),
    "CAGrad": (lambda: {"weighting": CAGrad(c=0.4)}, lambda: aggregation.CAGrad(c=0.4)),
    "GradDrop": (lambda: {"aggregator": GradDrop(seed=0)}, aggregation.GradDrop),
    "Random": (lambda: {"weighting": Random(seed=0)}, aggregation.Random),
}


def our_step(setup: Setup, arguments: dict[str, Any], place: str) -> Callable[[], None]:
    multi = MultiLoss(**arguments)
    shared = list(setup.encoder.parameters())

    def step() -> None:
        setup.zero_grad()
        features, losses = setup.forward()
        where = {"features": features} if place == "features" else {"shared_params": shared}
        multi.backward(losses, **where)  # type: ignore[arg-type]

    return step


def their_step(setup: Setup, aggregator: aggregation.Aggregator) -> Callable[[], None]:
    shared = list(setup.encoder.parameters())

    def step() -> None:
        setup.zero_grad()
        features, losses = setup.forward()
        mtl_backward(list(losses.values()), features=features, shared_params=shared)
        jac_to_grad(shared, aggregator)

    return step


def measure(rounds: int, batch: int) -> None:
    """4 heads at both places; 40 heads, at a quarter of the batch, only where we recommend to read."""
    for setup, places in (
        (few_heads(batch), ("features", "shared_params")),
        (linear_heads(batch // 4), ("features",)),
    ):
        for name, (ours, theirs) in METHODS.items():
            try:
                peer = their_step(setup, theirs())
                peer()
            except ImportError as error:
                print(json.dumps({"setup": setup.name, "method": name, "peer": f"not available: {error}"}))
                continue
            for place in places:
                if name == "Random" and place == "shared_params":
                    continue  # weights of the losses need no place
                mine = our_step(setup, ours(), place)
                mine()
                pairs = [(time_of(mine), time_of(peer)) for _ in range(rounds)]
                row = {
                    "setup": setup.name,
                    "method": name,
                    "place": place,
                    "over_torchjd": round(statistics.median(a / b for a, b in pairs), 3),
                    "torchjd_ms": round(1000 * statistics.median(b for _, b in pairs), 1),
                }
                print(json.dumps(row), flush=True)


def peak_memory(who: str, batch: int) -> None:
    """Runs in a process of its own: peak resident size above the plain step's."""
    setup = few_heads(batch)
    step = {
        "plain": our_step(setup, {}, "features"),
        "features": our_step(setup, {"weighting": MGDA()}, "features"),
        "shared_params": our_step(setup, {"weighting": MGDA()}, "shared_params"),
        "torchjd": their_step(setup, aggregation.MGDA()),
    }[who]
    for _ in range(2):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--memory-of")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        peak_memory(arguments.memory_of, arguments.batch)
    else:
        for who in ("plain", "features", "shared_params", "torchjd"):
            command = [sys.executable, __file__, "--memory-of", who, "--batch", str(arguments.batch)]
            peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                json.dumps({"memory_of": who, "method": "MGDA, 4 heads", "peak_MiB": round(peak)}), flush=True
            )
        measure(arguments.rounds, arguments.batch)
