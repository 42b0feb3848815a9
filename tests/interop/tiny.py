"""One small model for all adapters: encoder, two heads, two losses, and the plain loop they are held to."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyloss import MultiLoss
from manyloss.weighting import GradNorm

BATCH, STEPS = 4, 6


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.encoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
            self.near = nn.Linear(4, 1)
            self.far = nn.Linear(4, 1)

    def forward(self, inputs: Tensor, **labels: Tensor) -> dict[str, Tensor]:
        features = self.encoder(inputs)
        return {"features": features, "near": self.near(features)[:, 0], "far": self.far(features)[:, 0]}


def losses_of(outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: F.mse_loss(outputs[name], labels[name]) + 0.1 for name in ("near", "far")}


def examples(count: int = BATCH * STEPS) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(count, 3, generator=generator)
    return [{"inputs": x, "near": x.sum(), "far": -3 * x[0]} for x in inputs]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def batches(size: int = BATCH) -> list[dict[str, Tensor]]:
    rows = examples()
    return [collate(rows[i : i + size]) for i in range(0, len(rows), size)]


def new_multi() -> MultiLoss:
    return MultiLoss(GradNorm(lr=0.1))


def micro_batches(count: int, epochs: int = 1) -> list[list[dict[str, Tensor]]]:
    """All batches, ``count`` to an optimiser step."""
    given = batches() * epochs
    return [given[i : i + count] for i in range(0, len(given), count)]


Scheduler = Callable[[torch.optim.Optimizer], Any]


def plain_loop(
    multi: MultiLoss | None,
    given: Iterable[list[dict[str, Tensor]]],
    *,
    clip: float | None = None,
    scheduler: Scheduler | None = None,
) -> Tiny:
    """One optimiser step per list of micro-batches; without ``multi``, as one trains without manyloss."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = None if scheduler is None else scheduler(optimizer)
    for micro in given:
        optimizer.zero_grad()
        for batch in micro:
            outputs = model(batch["inputs"])
            losses = losses_of(outputs, batch)
            if multi is None:
                (sum(losses.values()) / len(micro)).backward()
            else:
                multi.backward(losses, features=outputs["features"], divide_by=len(micro))
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if rates is not None:
            rates.step()
    return model


def assert_same_parameters(actual: nn.Module, expected: nn.Module) -> None:
    for name, param in expected.named_parameters():
        torch.testing.assert_close(dict(actual.named_parameters())[name], param, rtol=1e-5, atol=1e-6)
