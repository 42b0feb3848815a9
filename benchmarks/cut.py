"""multi.cut: a step of nested features over a plain one, with an attention network and a pyramid detector.

Every step with PCGrad at the cut tensors alternates with a plain step of the same model, without cuts, on the
same batch; the median of the paired ratios is reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.weighting import PCGrad
from steps import time_of

Cut = Callable[[Tensor], Tensor]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Attention(nn.Module):
    """Three tasks that attend to 20 tensors of one encoder, each made from the one before (as in MTAN)."""

    name = "attention, 20 nested tensors"

    def __init__(self, blocks: int = 10, width: int = 128) -> None:
        super().__init__()
        self.first = conv(3, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([conv(width, width), conv(width, width)]) for _ in range(blocks)
        )
        self.masks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(blocks)) for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in range(3))
        self.images, self.targets = torch.randn(4, 3, 24, 24), torch.randn(3, 4, 1, 24, 24)

    def losses(self, cut: Cut) -> dict[str, Tensor]:
        x = self.first(self.images)
        attended: list[Tensor | float] = [0.0] * 3
        for number, (first, second) in enumerate(self.blocks):
            u = cut(first(x))
            x = cut(second(u))
            for task, masks in enumerate(self.masks):
                attended[task] = torch.sigmoid(masks[number](u + attended[task])) * x
        return {
            str(task): F.mse_loss(head(attended[task]), self.targets[task])
            for task, head in enumerate(self.heads)
        }


class Detector(nn.Module):
    """Classes and boxes on the three levels of a feature pyramid; finer levels from coarser ones."""

    name = "detector, pyramid of 3 levels"

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Sequential(conv(3, 32, 2), conv(32, 64, 2)), conv(64, 128, 2), conv(128, 256, 2)]
        )
        self.sides = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in (64, 128, 256))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    conv(width, width), conv(width, width), nn.Conv2d(width, count, 3, padding=1)
                )
                for name, count in (("class", 9), ("box", 36))
            }
        )
        self.images = torch.randn(4, 3, 128, 128)

    def losses(self, cut: Cut) -> dict[str, Tensor]:
        x, maps = self.images, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        levels: list[Tensor] = []
        for side, found in reversed(list(zip(self.sides, maps, strict=True))):
            level = side(found)
            if levels:
                level = level + F.interpolate(levels[-1], scale_factor=2.0)
            levels.append(cut(level))
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        return {
            name: torch.stack([head(level).square().mean() for level in levels]).sum()
            for name, head in self.heads.items()
        }


def ratio(model: nn.Module, rounds: int) -> tuple[float, float]:
    """Median of the paired ratios, and of the plain steps in ms."""
    multi = MultiLoss(PCGrad(seed=0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def plain() -> None:
        optimizer.zero_grad()
        sum(model.losses(lambda tensor: tensor).values(), start=torch.zeros(())).backward()
        optimizer.step()

    def cut() -> None:
        optimizer.zero_grad()
        multi.backward(model.losses(multi.cut))
        optimizer.step()

    plain(), cut()
    pairs = [(time_of(plain), time_of(cut)) for _ in range(rounds)]
    return (
        statistics.median(second / first for first, second in pairs),
        1000 * statistics.median(first for first, _ in pairs),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for model in (Attention(), Detector()):
        over_plain, plain_ms = ratio(model, arguments.rounds)
        row = {"step": model.name, "over_plain": round(over_plain, 3), "plain_ms": round(plain_ms, 1)}
        print(json.dumps(row), flush=True)
