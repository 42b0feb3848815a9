"""Two gloo ranks under DistributedDataParallel equal one process on the whole batch."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from manyloss.adversarial import GradientDefense, GradientDistillation
from tests.adversarial.nets import smooth

STEPS = 3
KINDS = ("defense", "two-pass", "distillation")


def build(kind, wrap):
    torch.manual_seed(0)
    model, other, auxiliary = smooth(), smooth(), smooth(1 if kind == "distillation" else 4)
    wrapped = wrap(model)
    if kind == "defense":
        method = GradientDefense(wrapped, auxiliary)
    elif kind == "two-pass":
        method = GradientDefense(wrapped, auxiliary, simultaneous=False)
    else:
        method = GradientDistillation(wrapped, other, auxiliary)
    method.set_progress(0.5)
    return model, auxiliary, method


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(STEPS, 8, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (STEPS, 8), generator=generator)


def train(model, method, x, y):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for images, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        method.backward(images, labels)
        optimizer.step()


def rank_main(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for kind in KINDS:
        model, auxiliary, method = build(kind, DistributedDataParallel)
        if rank == 1:
            with torch.no_grad():
                auxiliary[1].weight.zero_()  # what the ranks start with is rank 0's
        x, y = data()
        train(model, method, x[:, rank::2], y[:, rank::2])
        if rank == 1:
            torch.save([model.state_dict(), auxiliary.state_dict()], f"{folder}/{kind}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(rank_main, (port, str(path)), nprocs=2)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one_process(kind, folder):
    model, auxiliary, method = build(kind, lambda module: module)
    train(model, method, *data())
    for mine, theirs in zip(
        (model.state_dict(), auxiliary.state_dict()), torch.load(folder / f"{kind}.pt"), strict=True
    ):
        for name, value in mine.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-10, atol=1e-12)
