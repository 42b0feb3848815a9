"""Speed with 40 losses in the network of GradDrop's table 1, over a plain step, beside the paper's column.

CelebA's nine layers at 64x64, batches of 8, forward, backward and Adam. Steps of each row alternate with
plain ones; the speed is the median of the ratios of the pairs, 1 for a step as long as a plain one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.models.celeba import AttributeNetwork
from manyloss.lab.recipes.graddrop_celeba import Attributes

#: Row -> the paper's speed.
PAPER = {
    "clipping": 1.00,
    "gradient-penalty": 0.35,
    "mgda": 0.25,
    "pcgrad": 0.20,
    "gradnorm": 0.41,
    "random-graddrop": 0.45,
    "graddrop": 0.45,
}
BATCH, SIZE = 8, 64


def stepper(text: str, width: int) -> Callable[[], float]:
    """A function that makes one step of this row, and says how long it took."""
    problem = Attributes("made", train=1)
    arm = choose_arm(text, problem)
    arm.apply(problem)
    torch.manual_seed(0)
    model = AttributeNetwork(problem.loss_names, SIZE, width)
    multi = arm.build(ArmContext(problem.loss_names, seed=0, problem=problem, model=model))
    assert isinstance(multi, MultiLoss)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    targets = {name: (torch.rand(BATCH) < 0.3).float() for name in problem.loss_names}

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        problem.training_step(model, multi, images, targets, None)
        if problem.clip_gradients is not None:
            nn.utils.clip_grad_norm_(model.parameters(), problem.clip_gradients)
        optimizer.step()
        return time.perf_counter() - start

    step(), step()
    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plain = stepper("equal", arguments.width)
    for row, paper in PAPER.items():
        step = stepper(row, arguments.width)
        pairs = [(plain(), step()) for _ in range(arguments.rounds)]
        speed = statistics.median(base / own for base, own in pairs)
        print(json.dumps({"method": row, "speed": round(speed, 2), "paper": paper}), flush=True)
