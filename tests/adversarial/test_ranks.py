"""Two gloo ranks under DistributedDataParallel equal one process on the whole batch."""

import itertools
import socket

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from manyloss.adversarial import GradientDefense, GradientDistillation
from tests.adversarial.nets import smooth
from tests.forkserver import ended, started

STEPS = 3
KINDS = ("defense", "two-pass", "distillation")
WRAPPERS = {
    "plain": DistributedDataParallel,
    "static graph": lambda model: DistributedDataParallel(model, static_graph=True),
    "unused": lambda model: DistributedDataParallel(model, find_unused_parameters=True),
}


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
    for kind, (name, wrap) in itertools.product(KINDS, WRAPPERS.items()):
        model, auxiliary, method = build(kind, wrap)
        if rank == 1:
            with torch.no_grad():
                auxiliary[1].weight.zero_()  # what the ranks start with is rank 0's
        x, y = data()
        train(model, method, x[:, rank::2], y[:, rank::2])
        if rank == 1:
            torch.save([model.state_dict(), auxiliary.state_dict()], f"{folder}/{kind} {name}.pt")
    told = [failing(kind, rank) for kind in KINDS]
    torch.save(told, f"{folder}/told {rank}.pt")
    dist.destroy_process_group()


class LateError(Exception):
    """What a user's code raises on one rank."""


def failing(kind, rank):
    """What each rank is told when rank 1 fails, at ever later places; then a step that works."""
    model, auxiliary, method = build(kind, DistributedDataParallel)
    fine, labels = data()
    fine, labels = fine[0, rank::2], labels[0, rank::2]
    fails = [False]
    auxiliary.register_forward_hook(lambda *_: fail() if fails[0] else None)

    def fail():
        raise LateError("the auxiliary broke")

    def loss(outputs, y):
        if rank == 1:
            raise LateError("the loss broke")
        return torch.nn.functional.cross_entropy(outputs, y)

    said = []
    for x, y, settings, breaks in (
        (fine.long() if rank == 1 else fine, labels, {}, False),
        (fine, labels[:1] if rank == 1 else labels, {}, False),
        (fine * torch.nan if rank == 1 else fine, labels, {}, False),
        (fine, labels, {"loss": loss}, False),
        (fine, labels, {}, rank == 1),
    ):
        fails[0] = breaks
        before = [parameter.detach().clone() for parameter in auxiliary.parameters()]
        try:
            method.backward(x, y, **settings)
            said.append(None)
        except Exception as error:
            said.append((type(error).__name__, str(error)))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(*pair) for pair in zip(before, auxiliary.parameters(), strict=True))
    fails[0] = False
    said.append(bool(torch.isfinite(method.backward(fine, labels).objective)))
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [started(rank_main, rank, port, str(path)) for rank in range(2)]
    assert ended(ranks) == [0, 0]
    return path


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one_process(kind, wrapper, folder):
    model, auxiliary, method = build(kind, lambda module: module)
    train(model, method, *data())
    theirs = torch.load(folder / f"{kind} {wrapper}.pt")
    for mine, their in zip((model.state_dict(), auxiliary.state_dict()), theirs, strict=True):
        for name, value in mine.items():
            torch.testing.assert_close(their[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_a_rank_that_fails_is_named_on_the_others_in_the_same_step(number, folder):
    told, own = (torch.load(folder / f"told {rank}.pt")[number] for rank in (0, 1))
    assert told[-1] is own[-1] is True
    reasons = [
        "x must be a float",
        "y must hold one class",
        "x holds NaN",
        "the loss broke",
        "the auxiliary broke",
    ]
    for reason, (theirs, mine) in zip(reasons, zip(told, own, strict=True), strict=False):
        assert mine[1].startswith(reason)
        assert mine[0] == ("LateError" if "broke" in reason else "ValueError")
        assert theirs == ("RankError", f"Rank 1 refused this step, so no rank takes it: {mine[1]}")
