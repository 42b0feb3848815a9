"""multi.total: a scalar whose own backward is the step, whoever calls it and however it is scaled."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.penalties import CosReg
from manyloss.weighting import MGDA, GradNorm, PCGrad, Uncertainty
from tests.problems import assert_identical, assert_same

METHODS: dict[str, Callable[[], MultiLoss]] = {
    "Equal": MultiLoss,
    "Uncertainty": lambda: MultiLoss(Uncertainty()),
    "GradNorm": lambda: MultiLoss(GradNorm(lr=0.1)),
    "MGDA": lambda: MultiLoss(MGDA()),
    "PCGrad": lambda: MultiLoss(PCGrad(seed=1)),
    "GradDrop": lambda: MultiLoss(aggregator=GradDrop(seed=1)),
    "CosReg": lambda: MultiLoss(penalties=[CosReg(0.3)]),
    "per loss": lambda: MultiLoss(MGDA(), read="per_loss"),
}
PLACES = ("features", "params", "both")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5))
            self.heads = nn.ModuleDict({name: nn.Linear(5, 1) for name in "abc"})
        self.double()

    def forward(self, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        z = self.encoder(inputs)
        return z, {
            name: (head(z) - (-1.0) ** i).square().mean() + 0.1
            for i, (name, head) in enumerate(self.heads.items())
        }


def where(net: Net, z: Tensor, at: str) -> dict[str, Any]:
    last = list(net.encoder[2].parameters())
    return {
        "features": {"features": z},
        "params": {"shared_params": last},
        "both": {"features": z, "shared_params": iter(last)},
    }[at]


def trained(multi: MultiLoss, at: str, step_of: Callable[..., object], steps: int = 3) -> Net:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        z, losses = net(step)
        step_of(multi, losses, **where(net, z, at))
        optimizer.step()
    return net


def by_total(multi: MultiLoss, losses: Any, **place: Any) -> None:
    total = multi.total(losses, **place)
    assert float(total.detach()) == float(sum(loss.detach() for loss in losses.values()))
    total.backward()


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_its_backward_is_the_step(method: str, at: str) -> None:
    one, other = METHODS[method](), METHODS[method]()
    net = trained(one, at, by_total)
    expected = trained(other, at, lambda multi, losses, **place: multi.backward(losses, **place))
    assert_identical(list(net.parameters()), list(expected.parameters()))
    assert one.last is not None
    assert one.last.weights == other.last.weights
    assert one.last.plan == other.last.plan


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_what_arrives_scales_what_is_written_and_nothing_else(method: str, at: str) -> None:
    """65536 of a scaler, 1/3 of accumulation: methods see the losses as they are."""
    grads, weights = [], []
    for factor in (1.0, 65536.0 / 3):
        net, multi = Net(), METHODS[method]()
        z, losses = net()
        (multi.total(losses, **where(net, z, at)) * factor).backward()
        grads.append([parameter.grad / factor for parameter in net.parameters()])
        weights.append(list(multi.last.weights.values()))
    assert_same(grads[1], grads[0], 1e-12)
    assert_same(weights[1], weights[0], 1e-12)


def test_micro_batches_add_up_to_their_mean() -> None:
    net, multi = Net(), MultiLoss(PCGrad(seed=0))
    other, by_hand = Net(), MultiLoss(PCGrad(seed=0))
    for step in range(4):
        z, losses = net(step)
        (multi.total(losses, features=z) / 4).backward()
        z, losses = other(step)
        by_hand.backward(losses, features=z, divide_by=4)
    assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()], 1e-14)


def test_a_real_grad_scaler_skips_and_goes_on() -> None:
    net, multi = Net().float(), MultiLoss(GradNorm(lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        z = net.encoder(torch.randn(6, 4))
        losses = [
            head(z).square().mean() * (float("inf") if step == 2 else 1.0) for head in net.heads.values()
        ]
        start = [p.detach().clone() for p in net.parameters()]
        before = {key: value.clone() for key, value in multi.state_dict().items()}
        scaler.scale(multi.total(losses, features=z, grad_scaler=scaler)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert multi.last.skipped == (step == 2)
        if step == 2:
            assert_identical(list(net.parameters()), start)
            assert all(torch.equal(value, before[key]) for key, value in multi.state_dict().items())
    assert scaler.get_scale() == 2.0**9


def not_finite() -> tuple[Net, Tensor, dict[str, Tensor]]:
    net = Net()
    z, losses = net()
    losses["b"] = losses["b"] * float("nan")
    return net, z, losses


def test_what_is_not_finite_is_an_error_unless_someone_scales() -> None:
    net, z, losses = not_finite()
    multi = MultiLoss(MGDA())
    with pytest.raises(ValueError, match="Loss 'b' is nan: nothing was written"):
        multi.total(losses, features=z).backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    net, z, losses = not_finite()
    with pytest.warns(UserWarning, match="The losses came scaled by 8, which is taken for a GradScaler"):
        (multi.total(losses, features=z) * 8).backward()
    assert multi.last.skipped
    assert not torch.isfinite(net.encoder[0].weight.grad).all()
    net, z, losses = not_finite()
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(ValueError, match="Loss 'b' is nan"):
        (multi.total(losses, features=z, grad_scaler=disabled) / 8).backward()


@pytest.mark.parametrize("method", METHODS)
def test_a_factor_of_zero_writes_zeros(method: str) -> None:
    net, multi = Net(), METHODS[method]()
    z, losses = net()
    (multi.total(losses, features=z, grad_scaler=torch.amp.GradScaler("cpu", enabled=False)) * 0).backward()
    assert all(float(parameter.grad.abs().max()) == 0.0 for parameter in net.parameters())


def test_it_runs_once() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    total = multi.total(losses, features=z)
    total.backward()
    before = [parameter.grad.clone() for parameter in net.parameters()]
    with pytest.raises(RuntimeError, match=r"This multi.total has run its step"):
        total.backward()
    assert_identical([parameter.grad for parameter in net.parameters()], before)


def test_the_graph_is_kept_where_the_backward_keeps_it() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    total = multi.total(losses, features=z)
    total.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in net.parameters()]
    total.backward()
    assert_same([parameter.grad for parameter in net.parameters()], [2 * grad for grad in once], 1e-14)


def test_something_beside_it_needs_the_graph_kept() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    (multi.total(losses, features=z) + z.square().mean()).backward(retain_graph=True)
    other = Net()
    z, losses = other()
    MultiLoss(MGDA()).backward(losses, features=z, retain_graph=True)
    z.square().mean().backward()
    assert_same([p.grad for p in net.parameters()], [p.grad for p in other.parameters()], 1e-14)


def test_create_graph_is_refused() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    with pytest.raises(RuntimeError, match="differentiated with create_graph=True"):
        multi.total(losses, features=z).backward(create_graph=True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_sum(mode: Callable[[], Any]) -> None:
    net, multi = Net(), MultiLoss(GradNorm())
    with mode():
        z, losses = net()
        total = multi.total({**losses, "absent": None}, features=z)
        assert float(multi.total(torch.stack(list(losses.values())))) == float(total)
    assert not total.requires_grad
    assert multi.last is None
    assert multi.names is None


def test_bad_input_is_refused_where_total_is_called() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    with pytest.raises(ValueError, match="Loss 'b' does not require grad"):
        multi.total({**losses, "b": losses["b"].detach()}, features=z)
    with pytest.raises(ValueError, match=r"do not require grad: they were detached"):
        multi.total(losses, features=z.detach())
    with pytest.raises(ValueError, match="MGDA reads gradients: pass features="):
        multi.total(losses).backward()


def test_a_mapping_that_changes_afterwards_changes_nothing() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    total = multi.total(losses, features=z)
    losses["a"] = losses["a"] * float("nan")
    total.backward()
    assert not multi.last.skipped


def test_no_batch_is_held_after_the_step() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    held = weakref.ref(z)
    total = multi.total(losses, features=z)
    total.backward()
    z = losses = None
    gc.collect()
    assert held() is None
    assert float(total.detach()) > 0
    copy.deepcopy(multi)


def test_a_total_without_a_backward_is_forgotten() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net()
    held = weakref.ref(z)
    total = multi.total(losses, features=z)
    del z, losses, total
    gc.collect()
    assert held() is None


class Trainer:
    """A training step that someone compiled around everything but the backward."""

    def __init__(self, encoder: nn.Module, heads: nn.Module) -> None:
        self.encoder, self.heads, self.multi = encoder, heads, MultiLoss(MGDA())

    def training_step(self, inputs: Tensor) -> Tensor:
        z = self.encoder(inputs)
        losses = {name: (head(z) - i).square().mean() for i, (name, head) in enumerate(self.heads.items())}
        return self.multi.total(losses, features=z) * 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("parts", [False, True])
def test_a_compiled_trainer(parts: bool) -> None:
    """Around the trainer, and around its parts, which then stay apart."""
    torch._dynamo.reset()
    grads = []
    for compiled in (False, True):
        net = Net()
        heads = {
            name: torch.compile(h, backend="aot_eager") if compiled and parts else h
            for name, h in net.heads.items()
        }
        encoder = torch.compile(net.encoder, backend="aot_eager") if compiled and parts else net.encoder
        trainer = Trainer(encoder, heads)
        step = torch.compile(trainer.training_step, backend="eager") if compiled else trainer.training_step
        for number in range(3):
            inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            step(inputs).backward()
        assert trainer.multi.last is not None
        grads.append([parameter.grad for parameter in net.parameters()])
    torch._dynamo.reset()
    assert_same(grads[1], grads[0], 1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")
def test_a_trainer_compiled_into_one_graph_is_told_so() -> None:
    torch._dynamo.reset()
    net = Net()
    trainer = Trainer(net.encoder, net.heads)
    step = torch.compile(trainer.training_step, backend="aot_eager")
    with pytest.raises(ValueError, match="compile the encoder and the heads separately"):
        step(torch.randn(6, 4, dtype=torch.float64)).backward()
    torch._dynamo.reset()
