"""Fixed cost of a step: a tiny MLP with two losses, where everything but the model's own work shows.

Every method's step alternates with a plain step of the same model on the same batch; the median of the paired
ratios is reported. One thread: the model has 2,476 parameters. Run it with ``python benchmarks/small.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.weighting import MGDA, CAGrad, GradNorm, PCGrad, Random, Static
from steps import time_of

METHODS: dict[str, Callable[[], MultiLoss]] = {
    "Static": lambda: MultiLoss(Static([1.0, 2.0])),
    "Random": lambda: MultiLoss(Random(seed=0)),
    "GradNorm": lambda: MultiLoss(GradNorm()),
    "PCGrad": lambda: MultiLoss(PCGrad(seed=0)),
    "MGDA": lambda: MultiLoss(MGDA()),
    "CAGrad": lambda: MultiLoss(CAGrad()),
    "GradDrop": lambda: MultiLoss(aggregator=GradDrop(seed=0)),
}


def main(rounds: int) -> None:
    """Print one line per method."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 47), nn.ReLU())
    heads = nn.ModuleList([nn.Linear(47, 4), nn.Linear(47, 1)])
    inputs, classes, numbers = torch.randn(32, 20), torch.randint(4, (32,)), torch.randn(32, 1)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)

    def forward() -> tuple[Tensor, dict[str, Tensor]]:
        z = encoder(inputs)
        return z, {"class": F.cross_entropy(heads[0](z), classes), "number": F.mse_loss(heads[1](z), numbers)}

    def plain() -> None:
        optimizer.zero_grad()
        _, losses = forward()
        sum(losses.values(), start=torch.zeros(())).backward()
        optimizer.step()

    def step(multi: MultiLoss) -> None:
        optimizer.zero_grad()
        z, losses = forward()
        multi.backward(losses, features=z)
        optimizer.step()

    for name, make in METHODS.items():
        multi = make()
        for _ in range(50):
            plain()
            step(multi)
        ratios, plains = [], []
        for _ in range(rounds):
            plains.append(time_of(plain))
            ratios.append(time_of(partial(step, multi)) / plains[-1])
        row = {
            "method": name,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "ratio": round(statistics.median(ratios), 3),
            "plain_us": round(1e6 * statistics.median(plains), 1),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    main(parser.parse_args().rounds)
