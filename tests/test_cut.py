"""multi.cut: nested features, exact, remembered, and let go."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.gradients import LossGradients
from manyloss.penalties import CosReg
from manyloss.weighting import MGDA, GradNorm, PCGrad
from tests.problems import assert_identical, assert_same
from tests.reference.step import gramian, weighted

METHODS: dict[str, Callable[..., MultiLoss]] = {
    "Equal": MultiLoss,
    "MGDA": lambda **keywords: MultiLoss(MGDA(), **keywords),
    "PCGrad": lambda **keywords: MultiLoss(PCGrad(seed=1), **keywords),
    "GradDrop": lambda **keywords: MultiLoss(aggregator=GradDrop(seed=1), **keywords),
}


class Stages(nn.Module):
    """An encoder of three stages; every head looks at all of them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stages = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.heads = nn.ModuleDict({name: nn.Linear(12, 2) for name in "abc"})
        self.double()

    def encode(self, x: Tensor, cut: Callable[[Tensor], Tensor]) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            x = cut(torch.tanh(stage(x)))
            levels.append(x)
        return levels

    def losses(self, levels: list[Tensor]) -> dict[str, Tensor]:
        return {
            name: (head(torch.cat(levels, dim=1)) - (-1.0) ** i).square().mean()
            for i, (name, head) in enumerate(self.heads.items())
        }


class Pyramid(Stages):
    """As a detector's neck: fine levels from coarse ones; each head is applied to each level."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.lateral = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.heads = nn.ModuleDict({name: nn.Linear(4, 2) for name in "abc"})
        self.double()

    def encode(self, x: Tensor, cut: Callable[[Tensor], Tensor]) -> list[Tensor]:
        backbone = super().encode(x, lambda z: z)
        top = cut(self.lateral[2](backbone[2]))
        levels = [top]
        for k in (1, 0):
            top = cut(self.lateral[k](backbone[k]) + torch.tanh(top))
            levels.append(top)
        return levels

    def losses(self, levels: list[Tensor]) -> dict[str, Tensor]:
        return {
            name: sum((head(level) - (-1.0) ** i).square().mean() for level in levels)
            for i, (name, head) in enumerate(self.heads.items())
        }


class Early(Stages):
    """The heads of a stage run before the next stage: one backward cannot pick up in time."""

    def encode(self, x: Tensor, cut: Callable[[Tensor], Tensor]) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            x = cut(torch.tanh(stage(x)))
            levels.append(torch.sin(x))
            for name in "abc":
                levels.append(torch.sin(x) * len(name))
        return [torch.stack(levels[k * 4 + 1 : k * 4 + 4]).sum(0) for k in range(3)]


class Around(Stages):
    """A loss uses what lies between two stages: it reaches the first through the second's own way."""

    def encode(self, x: Tensor, cut: Callable[[Tensor], Tensor]) -> list[Tensor]:
        first = cut(torch.tanh(self.stages[0](x)))
        self.between = torch.tanh(self.stages[1](first))
        return [first, cut(self.between * 2), cut(self.stages[2](first))]

    def losses(self, levels: list[Tensor]) -> dict[str, Tensor]:
        losses = super().losses(levels)
        return {**losses, "a": losses["a"] + self.between.square().mean()}


NETS = [Stages, Pyramid, Early, Around]
every_net = pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)


def inputs(step: int = 0) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def leaves(net: Stages, step: int) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """The same forward with every cut tensor detached: (made, leaf) per cut, and the losses of the leaves."""
    made: list[Tensor] = []
    taken: list[Tensor] = []

    def cut(z: Tensor) -> Tensor:
        made.append(z)
        taken.append(z.detach().requires_grad_())
        return taken[-1]

    return made, taken, net.losses(net.encode(inputs(step), cut))


def expected(net: Stages, step: int, merge: Callable[[list[list[Tensor]]], list[Tensor]]) -> list[Tensor]:
    """Heads as ever; at each leaf the merged gradient, sent back stage by stage, last one first."""
    made, taken, losses = leaves(net, step)
    rows = [
        list(torch.autograd.grad(loss, taken, retain_graph=True, materialize_grads=True))
        for loss in losses.values()
    ]
    net.zero_grad()
    sum(losses.values()).backward(retain_graph=True)
    for leaf, merged in zip(taken, merge(rows), strict=True):
        leaf.grad = merged.clone()
    for source, leaf in zip(reversed(made), reversed(taken), strict=True):
        source.backward(leaf.grad, retain_graph=True)
    return [parameter.grad.clone() for parameter in net.parameters()]


def merging(method: str, multi: MultiLoss, levels: int) -> Callable[[list[list[Tensor]]], list[Tensor]]:
    def merge(rows: list[list[Tensor]]) -> list[Tensor]:
        if method == "GradDrop":
            return multi.aggregator.aggregate(
                [torch.stack([row[k] for row in rows]) for k in range(levels)],
                [torch.ones_like(rows[0][k]) for k in range(levels)],
                list("abc"),
            )
        if method == "Equal":
            return weighted(rows, [1.0] * 3)
        gradients = LossGradients.of(
            torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        )
        torch.testing.assert_close(gradients.gramian, gramian(rows))
        return weighted(rows, multi.weighting(gradients).tolist())

    return merge


@pytest.mark.filterwarnings("ignore:2 parameters .* are reached through the features and around them")
@every_net
@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize("method", ["Equal", "MGDA", "PCGrad"])
def test_nested_features_are_exact(net: type[Stages], method: str, read: str) -> None:
    ours, twin = net(), net()
    multi, alone = METHODS[method](read=read), METHODS[method]()
    for step in range(3):
        ours.zero_grad()
        levels = ours.encode(inputs(step), multi.cut)
        result = multi.backward(ours.losses(levels))
        if method != "Equal":
            one = read == "auto" and net in (Stages, Pyramid)
            assert result.path == ("one_backward" if one else "per_loss"), result.plan
        grads = [parameter.grad for parameter in ours.parameters()]
        assert_same(grads, expected(twin, step, merging(method, alone, 3)), 1e-12)


def test_graddrop_at_nested_features() -> None:
    """Its features are those numbers; one tensor at a time."""
    ours, twin, multi = Stages(), Stages(), MultiLoss(aggregator=GradDrop(seed=1))
    alone = GradDrop(seed=1)
    alone.start(list("abc"))
    multi.backward(ours.losses(ours.encode(inputs(), multi.cut)))

    def merge(rows: list[list[Tensor]]) -> list[Tensor]:
        levels = twin.encode(inputs(), lambda z: z)
        stacked = [torch.stack([row[k] for row in rows]) for k in range(3)]
        return alone.aggregate(stacked, [level.detach() for level in levels], list("abc"))

    assert_same([p.grad for p in ours.parameters()], expected(twin, 0, merge), 1e-12)


@pytest.mark.parametrize("net", NETS[:3], ids=lambda net: net.__name__)
@pytest.mark.parametrize("read", ["auto", "per_loss"])
def test_measured_at_parameters_through_all_cuts(net: type[Stages], read: str) -> None:
    """With shared_params the Gramian is that of the whole derivative there."""
    ours = net()
    multi = MultiLoss(MGDA(), read=read)
    params = list(ours.stages[0].parameters())
    losses = ours.losses(ours.encode(inputs(), multi.cut))
    rows = [list(torch.autograd.grad(loss, params, retain_graph=True)) for loss in losses.values()]
    result = multi.backward(losses, shared_params=params)
    torch.testing.assert_close(result.gramian, gramian(rows))
    weights = [float(weight) for weight in result.weights.values()]
    assert_same(
        [p.grad for p in ours.parameters()], expected(net(), 0, lambda r: weighted(r, weights)), 1e-12
    )


def test_a_penalty_on_nested_features() -> None:
    """CosReg's gradients are those at the cuts; its own derivative goes everywhere."""
    ours, twin = Stages(), Stages()
    multi = MultiLoss(penalties=[CosReg(0.3)])
    multi.backward(ours.losses(ours.encode(inputs(), multi.cut)))
    levels = twin.encode(inputs(), lambda z: z)
    losses = list(twin.losses(levels).values())
    seen = torch.cat(levels, dim=1)
    W = torch.stack([head.weight for head in twin.heads.values()])  # [T, 2, 12]
    b = torch.stack([head.bias for head in twin.heads.values()])
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    outputs = torch.einsum("bf,tof->tbo", seen, W) + b[:, None] - signs[:, None, None]
    gradients = torch.einsum("tbo,tof->tbf", 2 * outputs / outputs[0].numel(), W)
    values = torch.stack([loss.detach() for loss in losses])
    penalty = CosReg(0.3)
    penalty.start(list("abc"))
    value = penalty(LossGradients(list("abc"), values, [gradients]))
    (sum(losses) + value).backward()
    assert_same([p.grad for p in ours.parameters()], [p.grad for p in twin.parameters()], 1e-12)


def test_features_that_are_not_nested_take_the_ordinary_way() -> None:
    """Cut for the heads only: the encoder goes on with its own tensor."""
    ours, twin, multi = Stages(), Stages(), MultiLoss(MGDA())
    levels = multi.cut(ours.encode(inputs(), lambda z: z))
    result = multi.backward(ours.losses(levels))
    grads = [parameter.grad for parameter in ours.parameters()]
    assert_same(grads, expected(twin, 0, merging("MGDA", MultiLoss(MGDA()), 3)), 1e-12)
    assert result.path == "one_backward"


def test_without_cuts_the_error_names_them() -> None:
    net, multi = Stages(), MultiLoss(MGDA())
    levels = net.encode(inputs(), lambda z: z)
    with pytest.raises(ValueError, match=r"from features item 0.*z = multi.cut\(z\).*shared_params="):
        multi.backward(net.losses(levels), features=levels)
    multi.backward(net.losses(levels), shared_params=net.stages)


Pair = namedtuple("Pair", "a b")


def test_forms() -> None:
    multi = MultiLoss()
    a, b = torch.ones(2, requires_grad=True) * 1, torch.ones(2, requires_grad=True) * 2
    for form in ([a, b], (a, [b]), {"a": a, "b": (b,)}, Pair(a, b)):
        cut = multi.cut(form)
        assert type(cut) is type(form)
    assert len(multi.cuts.take(None)) == 8
    with pytest.raises(TypeError, match="or a sequence or mapping of tensors, got int"):
        multi.cut(3)
    constant = torch.ones(2)
    assert multi.cut(constant) is constant
    assert multi.cuts.take(None) is None


def test_evaluation_in_between_leaves_no_trace() -> None:
    net, multi = Stages(), MultiLoss(MGDA())
    levels = net.encode(inputs(), multi.cut)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            net.encode(inputs(1), multi.cut)
    result = multi.backward(net.losses(levels))
    assert len(result.losses) == 3
    assert multi.cuts.take(None) is None


def test_a_step_that_is_refused_lets_go_too() -> None:
    net, multi = Stages(), MultiLoss(MGDA())
    levels = net.encode(inputs(), multi.cut)
    with pytest.raises(ValueError, match="features= is given, and 3 tensors were cut"):
        multi.backward(net.losses(levels), features=levels[2])
    multi.backward(net.losses(levels := net.encode(inputs(), multi.cut)))
    held = weakref.ref(levels[0])
    del levels
    gc.collect()
    assert held() is None


def test_a_copy_has_no_cuts() -> None:
    net, multi = Stages(), MultiLoss(MGDA())
    net.multi = multi
    levels = net.encode(inputs(), multi.cut)
    average = copy.deepcopy(net)
    assert average.multi.cuts.take(None) is None
    multi.backward(net.losses(levels))


def test_a_total_takes_them() -> None:
    one, other = Stages(), Stages()
    multi, twin = MultiLoss(GradNorm()), MultiLoss(GradNorm())
    total = multi.total(one.losses(one.encode(inputs(), multi.cut)))
    with torch.no_grad():
        multi.total(one.losses(one.encode(inputs(1), multi.cut)))
    total.backward()
    twin.backward(other.losses(other.encode(inputs(), twin.cut)))
    assert_identical([p.grad for p in one.parameters()], [p.grad for p in other.parameters()])


def test_under_a_checkpoint_it_is_cut_once() -> None:
    one, other = Stages(), Stages()
    multi, twin = MultiLoss(MGDA()), MultiLoss(MGDA())
    levels = checkpoint(lambda x: one.encode(x, multi.cut), inputs(), use_reentrant=False)
    multi.backward(one.losses(levels))
    assert multi.cuts.take(None) is None
    twin.backward(other.losses(other.encode(inputs(), twin.cut)))
    assert_same([p.grad for p in one.parameters()], [p.grad for p in other.parameters()], 1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")
def test_a_model_compiled_as_a_whole_is_cut_apart() -> None:
    """Without the cut, encoder and heads would be one graph in which no features can be seen."""

    class Whole(nn.Module):
        def __init__(self, multi: MultiLoss) -> None:
            super().__init__()
            self.encoder, self.multi = nn.Linear(4, 5), multi
            self.heads = nn.ModuleDict({name: nn.Linear(5, 1) for name in "ab"})

        def forward(self, x: Tensor) -> dict[str, Any]:
            z = self.multi.cut(torch.tanh(self.encoder(x)))
            return {name: (head(z) - i).square().mean() for i, (name, head) in enumerate(self.heads.items())}

    torch._dynamo.reset()
    torch.manual_seed(0)
    net = Whole(MultiLoss(MGDA()))
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, backend="aot_eager")
    result = net.multi.backward(compiled(inputs().float()))
    expected = twin.multi.backward(twin(inputs().float()))
    torch._dynamo.reset()
    assert_same([p.grad for p in net.parameters()], [p.grad for p in twin.parameters()], 1e-5)
    assert result.weights.keys() == expected.weights.keys()
