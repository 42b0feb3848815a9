"""A hundred networks, each with fixed weights of its own: how good are weights that do not move?

    python examples/hundred_networks.py --executor ray:address=local

GradNorm's paper asks this of a hundred networks (Chen et al. 2018, figure 4): weights drawn at random and
held for the whole training, and GradNorm beside them. Each network is a row of the table and a trial of its
own, so that a killed run goes on where it was, on whatever executor: run the same line again.
"""

import argparse

import torch
from rich.console import Console
from torch import nn
from torchmetrics import MeanSquaredError

from manyloss import lab
from manyloss.lab import Problem, Splits, TensorSplit

SCALES = {"small": 1.0, "large": 10.0}


class TwoScales(Problem):
    """Two regressions of the same features; one has targets ten times as large."""

    name = "two-scales"
    epochs = 10
    batch_size = 50
    losses = dict.fromkeys(SCALES, nn.functional.mse_loss)
    metrics = dict.fromkeys(SCALES, MeanSquaredError)

    def datasets(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1000, 10, generator=generator)
        mixed = {name: torch.randn(10, 4, generator=generator) for name in SCALES}
        y = {name: scale * (x @ mixed[name]).tanh() for name, scale in SCALES.items()}
        return Splits(
            *(
                TensorSplit(x[a:b], {n: t[a:b] for n, t in y.items()})
                for a, b in ((0, 600), (600, 800), (800, 1000))
            )
        )

    def encoder(self):
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU())

    def heads(self):
        return {name: nn.Linear(32, 4) for name in SCALES}


def drawn_weights(count, seed=0):
    """As methods: uniform on the simplex, times the number of losses, which is what GradNorm's sum to."""
    shares = torch.distributions.Dirichlet(torch.ones(len(SCALES)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = len(SCALES) * shares.sample((count,))
    return [
        "static:"
        + ":".join(f"{name}={weight:.4f}" for name, weight in zip(SCALES, row.tolist(), strict=True))
        for row in drawn
    ]


if __name__ == "__main__":
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--networks", type=int, default=100)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--executor", default="processes")
    options.add_argument("--out", default="runs/hundred-networks")
    options = options.parse_args()
    results = lab.compare(
        TwoScales,
        ["equal", "gradnorm", *drawn_weights(options.networks)],
        seeds=1,
        epochs=options.epochs,
        jobs=options.jobs,
        executor=options.executor,
        out=options.out,
        console=Console(),
    )
    changes = {row["method"]: row["change"] for row in results.rows()}
    static = [change for name, change in changes.items() if name.startswith("static")]
    below = sum(change < changes["gradnorm"] for change in static)
    print(f"{below} of {len(static)} drawn weights end below GradNorm")
