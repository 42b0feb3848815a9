"""When a process group is destroyed: nothing of it is left, and what still needs it says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from manyloss import MultiLoss, batch_share
from manyloss.errors import RankError
from manyloss.weighting import GradNorm
from tests.distributed.training import batch, losses_of, new_model
from tests.forkserver import ended, started

THREADS = Path("/proc/self/task")


def threads() -> int:
    return len(list(THREADS.iterdir())) if THREADS.exists() else 0


def started_group(rank: int, file: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)


def step(multi: MultiLoss, model: torch.nn.Module) -> None:
    inputs, targets = batch(0)
    features, outputs = model(inputs, targets)
    share = batch_share(len(inputs))
    multi.backward(
        {name: share * loss for name, loss in losses_of(outputs, targets).items()}, features=features
    )


def twice(rank: int, folder: Path) -> None:
    """Train, destroy the group, be refused, start another group and go on."""
    torch.set_num_threads(1)
    before = threads()
    model, multi = new_model(), MultiLoss(GradNorm())
    started_group(rank, folder / "first")
    step(multi, model)
    assert not THREADS.exists() or threads() > before
    dist.destroy_process_group()
    # A thread of the group that outlives Python aborts the process when it lets a tensor go.
    assert threads() == before
    with pytest.raises(RankError, match=re.escape("The process group of these 2 ranks was destroyed.")):
        step(multi, model)
    started_group(rank, folder / "second")
    new = MultiLoss(GradNorm())
    new.load_state_dict(multi.state_dict())
    step(new, DistributedDataParallel(model))
    dist.destroy_process_group()


def test_nothing_is_left_of_a_destroyed_group(tmp_path: Path) -> None:
    assert ended([started(twice, rank, tmp_path) for rank in range(2)]) == [0, 0]
