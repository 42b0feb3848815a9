"""Time of the weightings alone, from a Gramian of T losses: MGDA's exact point, PCGrad, CAGrad."""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from manyloss import LossGradients
from manyloss.weighting import MGDA, CAGrad, IterativePCGrad, PCGrad

ROUNDS = 20


def main(rounds: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    methods = {"MGDA": MGDA(), "PCGrad": PCGrad(0), "IterativePCGrad": IterativePCGrad(0), "CAGrad": CAGrad()}
    for T in (2, 3, 10, 40, 100, 200):
        for kind, dimensions in (("full rank", 4 * T), ("rank deficient", max(1, T // 2))):
            for name, method in methods.items():
                times = []
                for _ in range(rounds):
                    gradients = LossGradients.of(torch.randn(T, dimensions, dtype=torch.float64))
                    _ = gradients.gramian  # formed once per step, whoever asks
                    start = time.perf_counter()
                    method(gradients)
                    times.append(1000 * (time.perf_counter() - start))
                row = {"method": name, "T": T, "rank": kind, "median_ms": round(statistics.median(times), 3)}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    main(parser.parse_args().rounds)
