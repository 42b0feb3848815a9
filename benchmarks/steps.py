"""Step time over a plain ``sum(losses).backward()`` step, in one run: ResNet-18 at 32x32, batch 32.

Every method's step alternates with a plain step of the same model on the same batch, and the median of the
paired ratios is reported, so that a busy machine slows both. Run it with ``python benchmarks/steps.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.lab.models.resnet import resnet18_encoder
from manyloss.weighting import MGDA, GradNorm, PCGrad


@dataclass
class Setup:
    """A model with T losses and the places to read at."""

    name: str
    encoder: nn.Module
    heads: nn.ModuleList
    inputs: Tensor
    targets: Tensor

    def zero_grad(self) -> None:
        self.encoder.zero_grad()
        self.heads.zero_grad()

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.encoder(self.inputs)
        losses = {
            str(i): F.mse_loss(head(features).flatten(), self.targets[i]) for i, head in enumerate(self.heads)
        }
        return features, losses

    def to(self, device: str) -> Setup:
        """All of it there."""
        self.encoder.to(device)
        self.heads.to(device)
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        return self


def linear_heads(batch: int) -> Setup:
    """40 heads Linear 512 -> 64 -> 1 on pooled features."""
    encoder = nn.Sequential(resnet18_encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    heads = [nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 1)) for _ in range(40)]
    return setup_of("40 heads 512-64-1", encoder, heads, batch)


def heavy_heads(batch: int) -> Setup:
    """3 convolutional heads whose work together equals the encoder's within 10 %."""
    encoder = resnet18_encoder()
    heads = [
        nn.Sequential(
            nn.Conv2d(512, 512, 3, padding=1),
            nn.ReLU(),
            *[layer for _ in range(4) for layer in (nn.Conv2d(512, 512, 3, padding=1), nn.ReLU())],
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, 1),
        )
        for _ in range(3)
    ]
    return setup_of("3 heads as heavy as the encoder", encoder, heads, batch)


def setup_of(name: str, encoder: nn.Module, heads: list[nn.Module], batch: int) -> Setup:
    return Setup(
        name, encoder, nn.ModuleList(heads), torch.randn(batch, 3, 32, 32), torch.randn(len(heads), batch)
    )


def time_of(step: Callable[[], object]) -> float:
    """Seconds, until a GPU is done too."""
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(setup: Setup, rounds: int, **more: object) -> list[dict[str, object]]:
    """Median paired ratio of each method on each path over the plain step; ``more`` stands in every row."""
    parameters = [*setup.encoder.parameters(), *setup.heads.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-4)
    last_layer = [p for p in setup.encoder.parameters() if p.dim() == 4][-1]

    def plain() -> None:
        optimizer.zero_grad()
        _, losses = setup.forward()
        sum(losses.values(), start=torch.zeros(())).backward()
        optimizer.step()

    def with_method(multi: MultiLoss, shared: list[Tensor] | None) -> Callable[[], None]:
        def step() -> None:
            optimizer.zero_grad()
            features, losses = setup.forward()
            multi.backward(losses, features=features, shared_params=shared)
            optimizer.step()

        return step

    methods: dict[str, tuple[dict[str, object], list[Tensor] | None]] = {
        "MGDA": ({"weighting": MGDA()}, None),
        "PCGrad": ({"weighting": PCGrad(seed=0)}, None),
        "GradDrop": ({"aggregator": GradDrop(seed=0)}, None),
        "GradNorm at W": ({"weighting": GradNorm()}, [last_layer]),
        "GradNorm at features": ({"weighting": GradNorm()}, None),
    }
    rows = []
    for name, (arguments, shared) in methods.items():
        for path in ("one_backward", "per_loss"):
            step = with_method(MultiLoss(**arguments, read=path), shared)  # type: ignore[arg-type]
            plain(), step()
            ratios, plains = [], []
            for _ in range(rounds):
                base = time_of(plain)
                plains.append(base)
                ratios.append(time_of(step) / base)
            rows.append(
                {
                    "setup": setup.name,
                    "method": name,
                    "path": path,
                    "ratio": round(statistics.median(ratios), 3),
                    "plain_ms": round(1000 * statistics.median(plains), 1),
                    **more,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def work_of(module: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for setup in (linear_heads(32), heavy_heads(32)):
        encoder = work_of(setup.encoder, setup.inputs)
        features = setup.encoder(setup.inputs).detach()
        heads = sum(work_of(head, features) for head in setup.heads)
        print(json.dumps({"setup": setup.name, "heads_over_encoder": round(heads / encoder, 2)}), flush=True)
        measure(setup, arguments.rounds)
