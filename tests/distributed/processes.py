"""Real processes: the same cases run on N ranks and in one process, and what they leave is compared.

A case is a plain value that both sides understand; all cases of a test share one start, since starting
processes costs seconds.
"""

from __future__ import annotations

import copy
import datetime
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.forkserver import ended, started

TIMEOUT = datetime.timedelta(seconds=40)
# What DDP and FSDP say of their own inner workings.
TORCH_OWN = ("Grad strides do not match bucket view strides",)


@dataclass(frozen=True)
class Place:
    """Where a case runs."""

    rank: int = 0
    world: int = 1

    def part(self, batch: Tensor) -> Tensor:
        """This rank's even part of the global batch."""
        return batch.chunk(self.world)[self.rank]


@dataclass(frozen=True)
class Run:
    """A named call that gives tensors; ``function`` and ``settings`` have to be picklable."""

    name: str
    function: Callable[..., Sequence[Tensor]]
    settings: dict[str, Any] = field(default_factory=dict)

    def on(self, place: Place) -> list[Tensor]:
        torch.manual_seed(100 + place.rank)
        return [tensor.detach().clone() for tensor in self.function(place, **self.settings)]


def on_ranks(runs: Sequence[Run], world: int, folder: Path) -> dict[str, list[list[Tensor]]]:
    """Per run the tensors of every rank; an error of any rank is raised with its traceback."""
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # a file would be polled
    processes = [started(_rank, rank, world, meeting.port, list(runs), str(folder)) for rank in range(world)]
    ended(processes)  # what failed is in the files
    parts = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(world)]
    failed = [error for _, errors in parts for error in errors]
    assert not failed, "\n".join(failed)
    return {run.name: [left[run.name] for left, _ in parts] for run in runs}


def _rank(rank: int, world: int, port: int, runs: list[Run], folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    left: dict[str, list[Tensor]] = {}
    errors: list[str] = []
    for run in runs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for message in TORCH_OWN:
                    warnings.filterwarnings("ignore", message)
                left[run.name] = run.on(Place(rank, world))
        except BaseException:  # a failed pytest.raises is no Exception
            errors.append(f"{run.name}, rank {rank}:\n{traceback.format_exc()}")
            break  # the ranks would meet in different runs from here on
    torch.save((left, errors), f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


def differences(runs: Sequence[Run], ranks: dict[str, list[list[Tensor]]], atol: float = 1e-12) -> list[str]:
    """The runs whose ranks differ from each other by a bit, or from one process by more than ``atol``."""
    wrong = []
    for run in runs:
        first, *others = ranks[run.name]
        if any(not torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True)):
            wrong.append(f"{run.name}: the ranks differ")
        alone = copy.deepcopy(run).on(Place())
        apart = max(float((a - b).abs().max()) for a, b in zip(first, alone, strict=True))
        if not apart <= atol:
            wrong.append(f"{run.name}: {apart:.1e} from one process")
    return wrong
