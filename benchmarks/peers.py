"""Each method against the same method in TorchJD, on the same model: time of a step and peak memory.

TorchJD has several ways to one step: ``mtl_backward`` with ``jac_to_grad`` (losses in parallel by vmap, or
one by one; the Gramian of the whole matrix, or summed over its parts) and ``autogram`` (the Gramian by hooks,
then one backward). All that the installed version has are measured, and the ratio is to the fastest of them.
Steps alternate within one run; memory is the peak resident size of a fresh process.
"""

from __future__ import annotations

import argparse
import inspect
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.weighting import MGDA, CAGrad, PCGrad, UPGrad
from steps import Setup, linear_heads, setup_of, time_of

try:
    from torchjd.autogram import Engine
except ImportError:  # an older version
    Engine = None

Step = Callable[[], None]


def few_heads(batch: int) -> Setup:
    """A ResNet-18 with 4 heads."""
    setup = linear_heads(batch)
    setup.name, setup.heads = "ResNet-18, 4 heads", nn.ModuleList(list(setup.heads)[:4])
    setup.targets = setup.targets[:4]
    return setup


def small_convnet(batch: int) -> Setup:
    """Three convolutions with 4 heads."""
    layers: list[nn.Module] = []
    for width_in, width_out in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(width_in, width_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return setup_of("three convolutions, 4 heads", encoder, [nn.Linear(128, 1) for _ in range(4)], batch)


SETUPS = {"resnet": few_heads, "convnet": small_convnet}
METHODS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], aggregation.Aggregator]]] = {
    "MGDA": (lambda: {"weighting": MGDA()}, aggregation.MGDA),
    "PCGrad": (lambda: {"weighting": PCGrad(seed=0)}, aggregation.PCGrad),
    "CAGrad": (lambda: {"weighting": CAGrad(c=0.4)}, lambda: aggregation.CAGrad(c=0.4)),
    "UPGrad": (lambda: {"weighting": UPGrad()}, aggregation.UPGrad),
    "GradDrop": (lambda: {"aggregator": GradDrop(seed=0)}, aggregation.GradDrop),
}


def our_step(setup: Setup, arguments: dict[str, Any], place: str) -> Step:
    multi = MultiLoss(**arguments)
    shared = list(setup.encoder.parameters())

    def step() -> None:
        setup.zero_grad()
        features, losses = setup.forward()
        where = {"features": features} if place == "features" else {"shared_params": shared}
        multi.backward(losses, **where)  # type: ignore[arg-type]

    return step


def by_jacobians(
    setup: Setup, aggregator: aggregation.Aggregator, at_once: int | None, **options: bool
) -> Step:
    shared = list(setup.encoder.parameters())

    def step() -> None:
        setup.zero_grad()
        features, losses = setup.forward()
        mtl_backward(
            list(losses.values()), features=features, shared_params=shared, parallel_chunk_size=at_once
        )
        jac_to_grad(shared, aggregator, **options)

    return step


def by_autogram(setup: Setup, weighting: Callable[[Tensor], Tensor]) -> Step:
    """The weights scale the losses, heads and all; it can do no other."""
    engine = Engine(setup.encoder, batch_dim=None)

    def step() -> None:
        setup.zero_grad()
        _, losses = setup.forward()
        stacked = torch.stack(list(losses.values()))
        stacked.backward(weighting(engine.compute_gramian(stacked)))

    return step


def their_steps(
    make: Callable[[int], Setup], batch: int, theirs: Callable[[], Any]
) -> Iterator[tuple[str, Step]]:
    """Every way that the installed version has for this method."""
    setup = make(batch)
    for words, at_once in (("vmap", None), ("one by one", 1)):
        yield f"mtl_backward {words}, jac_to_grad", by_jacobians(setup, theirs(), at_once)
    weighting = getattr(theirs(), "gramian_weighting", None)
    if weighting is None:
        return
    if "optimize_gramian_computation" in inspect.signature(jac_to_grad).parameters:
        step = by_jacobians(setup, theirs(), 1, optimize_gramian_computation=True)
        yield "mtl_backward one by one, jac_to_grad by parts", step
    if Engine is not None:
        yield "autogram", by_autogram(make(batch), weighting)


def measure(name: str, rounds: int, batch: int) -> None:
    make = SETUPS[name]
    for method, (ours, theirs) in METHODS.items():
        try:
            peers = dict(their_steps(make, batch, theirs))
        except ImportError as error:
            print(json.dumps({"setup": name, "method": method, "peer": f"not available: {error}"}))
            continue
        mine = {place: our_step(make(batch), ours(), place) for place in ("shared_params", "features")}
        every = {**mine, **peers}
        times: dict[str, list[float]] = {who: [] for who in every}
        for step in every.values():
            step()
        for _ in range(rounds):
            for who, step in every.items():
                times[who].append(time_of(step))
        medians = {who: statistics.median(seconds) for who, seconds in times.items()}
        fastest = min(peers, key=medians.__getitem__)
        for place in mine:
            ratio = statistics.median(a / b for a, b in zip(times[place], times[fastest], strict=True))
            row = {
                "setup": make(1).name,
                "method": method,
                "place": place,
                "over_torchjd": round(ratio, 3),
                "fastest": fastest,
                "torchjd_ms": {who: round(1000 * medians[who], 1) for who in peers},
            }
            print(json.dumps(row), flush=True)


def memory(batch: int) -> None:
    """Each step in a process of its own: the peak of MGDA's step, of TorchJD's ways, and of a plain one."""
    ways = [who for who, _ in their_steps(few_heads, 1, aggregation.MGDA)]
    for who in ("plain", "features", "shared_params", *ways):
        command = [sys.executable, __file__, "--memory-of", who, "--batch", str(batch)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        row = {"memory_of": who, "method": "MGDA", "setup": few_heads(1).name, "peak_MiB": round(peak)}
        print(json.dumps(row), flush=True)


def peak_memory(who: str, batch: int) -> None:
    if who in ("plain", "features", "shared_params"):
        arguments = {} if who == "plain" else {"weighting": MGDA()}
        step = our_step(few_heads(batch), arguments, "features" if who == "plain" else who)
    else:
        step = dict(their_steps(few_heads, batch, aggregation.MGDA))[who]
    for _ in range(2):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--setup", choices=list(SETUPS))
    parser.add_argument("--memory-of")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        peak_memory(arguments.memory_of, arguments.batch)
    else:
        if arguments.setup is None:
            memory(arguments.batch)
        for name in [arguments.setup] if arguments.setup else SETUPS:
            measure(name, arguments.rounds, arguments.batch)
