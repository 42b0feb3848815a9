"""GradNorm's overhead on its own network: a step over a plain one, beside the 5 % of the paper's footnote 1.

SegNet with one last layer for depth, segmentation and normals; W is the last shared convolution. Steps are
forward, backward and Adam on made rooms; GradNorm's alternate with plain ones of a network of the same shape,
and the median of the ratios of the pairs is reported. What is measured is the time of the processor, on one
thread, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from manyloss import MultiLoss
from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.recipes.gradnorm_nyuv2_seg import Rooms

PAPER = 1.05
#: The recipe's small scale, and the paper's network on images of half its side.
SIZES: tuple[dict[str, Any], ...] = (
    {"width": 8, "image": 80, "stride": 1, "batch_size": 8},
    {"width": 64, "image": 160, "stride": 4, "batch_size": 1},
)


def stepper(text: str, problem: Rooms) -> tuple[Callable[[], float], int]:
    """A function that makes one step of this row and says how long it took; the number of parameters."""
    torch.manual_seed(0)
    model = problem.model()
    multi = choose_arm(text, problem).build(
        ArmContext(problem.loss_names, seed=0, problem=problem, model=model)
    )
    assert isinstance(multi, MultiLoss)
    optimizer = problem.optimizer(model.parameters())
    shared = problem.shared_params(model)
    inputs, targets = problem.datasets(0).train.batch(torch.arange(problem.batch_size), None)

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad()
        problem.training_step(model, multi, inputs, targets, shared)
        optimizer.step()
        return time.process_time() - start

    step(), step()
    return step, sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in SIZES:
        problem = Rooms(train=size["batch_size"], test=1, **size)
        (plain, count), (step, _) = (stepper(text, problem) for text in ("equal", "gradnorm"))
        pairs = [(plain(), step()) for _ in range(arguments.rounds)]
        row = {
            "network": f"SegNet, {count / 1e6:.1f} M parameters, {size['image']}x{size['image']}",
            "batch": size["batch_size"],
            "over_plain": round(statistics.median(own / base for base, own in pairs), 3),
            "paper": PAPER,
            "plain_ms": round(1000 * statistics.median(base for base, _ in pairs), 1),
        }
        print(json.dumps(row), flush=True)
