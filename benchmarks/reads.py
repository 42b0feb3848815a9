"""What is read without forming it: GradNorm's norms at the last convolution, the Gramian at all parameters.

Steps alternate with plain ones of the same model and the median of the paired ratios is reported. Memory is
the peak resident size of a fresh process, less what it holds before its first step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.lab.models.resnet import resnet18_encoder
from manyloss.weighting import MGDA, GradNorm
from steps import Setup, setup_of, time_of

NORMS_LIMIT = 1.25
MEMORY_LIMIT = 1.3


def resnet(count: int, batch: int) -> Setup:
    """ResNet-18 at 32 x 32 with linear heads on pooled features."""
    encoder = nn.Sequential(resnet18_encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    heads: list[nn.Module] = [nn.Linear(512, 1) for _ in range(count)]
    return setup_of(f"ResNet-18, {count} linear heads", encoder, heads, batch)


def last_convolution(setup: Setup) -> list[Tensor]:
    """The last of 3 x 3, without those of shortcuts."""
    return [param for param in setup.encoder.parameters() if param.dim() == 4 and param.shape[-1] == 3][-1:]


def step_of(setup: Setup, multi: MultiLoss, at: str, params: Iterable[Tensor] = ()) -> Callable[[], None]:
    params = list(params)

    def step() -> None:
        setup.zero_grad()
        features, losses = setup.forward()
        if at == "features":
            multi.backward(losses, features=features, shared_params=params or None)
        else:
            multi.backward(losses, shared_params=params)

    return step


def steps(setup: Setup) -> dict[str, Callable[[], None]]:
    everything = list(setup.encoder.parameters())
    return {
        "plain": step_of(setup, MultiLoss(), "features"),
        "GradNorm at the last convolution": step_of(
            setup, MultiLoss(GradNorm()), "features", last_convolution(setup)
        ),
        "MGDA at all parameters": step_of(setup, MultiLoss(MGDA()), "shared_params", everything),
        "MGDA at all parameters, low memory": step_of(
            setup, MultiLoss(MGDA(), low_memory=True), "shared_params", everything
        ),
    }


def ratio(setup: Setup, name: str, rounds: int) -> float:
    every = steps(setup)
    plain, step = every["plain"], every[name]
    plain(), step()
    return statistics.median(time_of(step) / time_of(plain) for _ in range(rounds))


def held() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak(name: str, count: int, batch: int) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--losses", str(count), "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(rounds: int, batch: int) -> None:
    # Memory comes first: the peak of a process starts at what its parent held.
    for count in (4, 8):
        plain = peak("plain", count, batch)
        for name in ("MGDA at all parameters", "MGDA at all parameters, low memory"):
            row = {
                "memory_of": name,
                "losses": count,
                "over_plain": round(peak(name, count, batch) / plain, 3),
            }
            print(json.dumps(row | ({"limit": MEMORY_LIMIT} if "low" in name else {})), flush=True)
    name = "GradNorm at the last convolution"
    row = {"step": name, "losses": 40, "over_plain": round(ratio(resnet(40, batch), name, rounds), 3)}
    print(json.dumps(row | {"limit": NORMS_LIMIT}), flush=True)
    for name in ("MGDA at all parameters", "MGDA at all parameters, low memory"):
        row = {"step": name, "losses": 8, "over_plain": round(ratio(resnet(8, batch), name, rounds), 3)}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--losses", type=int, default=8)
    parser.add_argument("--memory-of")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        step = steps(resnet(arguments.losses, arguments.batch))[arguments.memory_of]
        before = held()
        for _ in range(2):
            step()
        print(held() - before)
    else:
        main(arguments.rounds, arguments.batch)
