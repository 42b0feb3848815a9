"""What a ConflictRecorder with every=50 adds to a run, from the time of a step with and without a record."""

from __future__ import annotations

import json
import statistics

import torch

from manyloss import MultiLoss
from manyloss.diagnostics import ConflictRecorder
from steps import Setup, heavy_heads, linear_heads, time_of

EVERY = 50


def extra_percent(setup: Setup, rounds: int) -> float:
    """Median extra time of a recorded step over a plain one, spread over 50 steps, in percent of a step."""

    def step_of(multi: MultiLoss) -> float:
        def step() -> None:
            setup.zero_grad()
            features, losses = setup.forward()
            multi.backward(losses, features=features)

        return time_of(step)

    plain, recorded = MultiLoss(), MultiLoss()
    with ConflictRecorder(recorded, every=1):
        step_of(plain), step_of(recorded)
        ratios = [step_of(recorded) / step_of(plain) for _ in range(rounds)]
    return 100 * (statistics.median(ratios) - 1) / EVERY


if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.manual_seed(0)
    for setup in (linear_heads(32), heavy_heads(32)):
        print(
            json.dumps({"setup": setup.name, "extra_percent": round(extra_percent(setup, 9), 2)}), flush=True
        )
