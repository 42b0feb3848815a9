"""What a ConflictRecorder with every=50 adds to a run, from the time of a step with and without a record.

Steps with and without a record alternate, on the same model and batch; the median of the paired differences
is spread over 50 steps. With output: JSON lines to a file, and every number to a writer that keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.diagnostics import ConflictRecorder
from steps import Setup, heavy_heads, linear_heads, time_of

EVERY = 50
LIMIT = 2.0


def tiny_heads() -> Setup:
    """3,000 parameters and 40 heads: the recorder's own work is as much of a step as it can be."""
    encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
    heads = nn.ModuleList([nn.Linear(24, 1) for _ in range(40)])
    return Setup("tiny, 40 heads", encoder, heads, torch.randn(32, 20), torch.randn(40, 32))


def extra_percent(setup: Setup, rounds: int, **output: Any) -> tuple[float, float]:
    """What a record adds, spread over 50 steps, in percent of a plain step; and that step, in ms."""
    plain, recorded = MultiLoss(), MultiLoss()

    def timed(multi: MultiLoss) -> float:
        def step() -> None:
            setup.zero_grad()
            features, losses = setup.forward()
            multi.backward(losses, features=features)

        return time_of(step)

    with ConflictRecorder(recorded, every=1, **output):
        for _ in range(2):
            timed(plain), timed(recorded)
        pairs = [(timed(plain), timed(recorded)) for _ in range(rounds)]
    base = statistics.median(first for first, _ in pairs)
    extra = statistics.median(second - first for first, second in pairs)
    return 100 * extra / base / EVERY, 1000 * base


def main(rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for setup, times in ((tiny_heads(), 40 * rounds), (linear_heads(32), rounds), (heavy_heads(32), rounds)):
        for kind in ("memory", "output"):
            with tempfile.TemporaryDirectory() as folder:
                output: dict[str, Any] = {}
                if kind == "output":
                    output = {"path": Path(folder) / "conflict.jsonl", "writer": lambda *_: None}
                percent, base = extra_percent(setup, times, **output)
            row = {"setup": setup.name, "records": kind, "extra_percent": round(percent, 2)}
            print(json.dumps(row | {"step_ms": round(base, 2), "limit": LIMIT}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.threads)
