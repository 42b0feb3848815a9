"""The Gramian read in groups of parameters, against all gradients at once."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint

from manyloss import folding
from manyloss.folding import folded_gramian, groups
from manyloss.lab.models.resnet import resnet18_encoder
from manyloss.layers import find_layers

Problem = tuple[list[Tensor | None], list[Tensor]]
"""Losses and parameters."""


def naive(losses: Sequence[Tensor | None], params: Sequence[Tensor], seeds: Sequence[float]) -> Tensor:
    rows = []
    for loss, seed in zip(losses, seeds, strict=True):
        row = [torch.zeros_like(param) for param in params]
        if loss is not None:
            found = torch.autograd.grad(seed * loss, params, retain_graph=True, allow_unused=True)
            row = [known if grad is None else grad for known, grad in zip(row, found, strict=True)]
        rows.append(torch.cat([grad.flatten() for grad in row]))
    return torch.stack(rows) @ torch.stack(rows).T


def losses_of(features: Tensor, count: int = 3) -> list[Tensor]:
    heads = [nn.Linear(features.shape[-1], 2).to(features.dtype) for _ in range(count)]
    return [head(features).square().mean() for head in heads]


def chain() -> Problem:
    model = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(5, 5), nn.Tanh())])
    return losses_of(model(torch.randn(6, 5))), list(model.parameters())


def residual() -> Problem:
    encoder = resnet18_encoder(width=4)
    model = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return losses_of(model(torch.randn(4, 3, 16, 16))), list(encoder.parameters())


class Skips(nn.Module):
    """Every level goes on to the last layer: nowhere but at the end and the start is the graph narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for layer in self.layers:
            x = layer(x).sigmoid()
            levels.append(x)
        return torch.cat(levels, 1)


def skips() -> Problem:
    model = nn.Sequential(nn.Linear(5, 5), Skips(), nn.Linear(25, 5), nn.Tanh(), nn.Linear(5, 4))
    return losses_of(model(torch.randn(6, 5))), list(model.parameters())


def tied() -> Problem:
    """The first weight is used twice in the middle and once at the end."""
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    x = second(first(torch.randn(6, 5)).tanh()).tanh()
    x = second(first(first(x).tanh()).tanh()).tanh()
    out = F.linear(x, first.weight)
    return losses_of(out), [*first.parameters(), *second.parameters()]


def losses_at_different_depths() -> Problem:
    """One after each layer, one made of another, one at a weight alone, and one that is absent."""
    layers = [nn.Linear(5, 5) for _ in range(3)]
    x = torch.randn(6, 5)
    losses: list[Tensor | None] = []
    for layer in layers:
        x = layer(x).tanh()
        losses += losses_of(x, 1)
    assert losses[0] is not None
    losses += [losses[0].exp(), layers[1].weight.square().sum(), None]
    return losses, [param for layer in layers for param in layer.parameters()]


def two_encoders() -> Problem:
    left, right = nn.Linear(5, 5), nn.Linear(5, 5)
    left_out, right_out = left(torch.randn(6, 5)).tanh(), right(torch.randn(6, 5)).tanh()
    losses = [(left_out * right_out).sum(), *losses_of(left_out, 1), *losses_of(right_out, 1)]
    return losses, [
        *left.parameters(),
        *right.parameters(),
        nn.Linear(2, 2).weight,
    ]  # the last is not reached


def many_outputs() -> Problem:
    model = nn.Linear(5, 6)
    mean, spread, _ = model(torch.randn(6, 5)).chunk(3, 1)
    out, (hidden, _) = nn.LSTM(2, 5, num_layers=2)(torch.stack([mean, spread.exp()]))
    losses = [out.square().sum(), hidden.mean(), mean.sum()]
    return losses, list(model.parameters())


def recurrent() -> Problem:
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    out, _ = lstm(torch.randn(5, 2, 3))
    return losses_of(out), list(lstm.parameters())


def recomputed() -> Problem:
    layers = [nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)) for _ in range(3)]
    x = torch.randn(6, 5, requires_grad=True)
    for layer in layers:
        x = checkpoint(layer, x, use_reentrant=False).sigmoid()
    return losses_of(x), [param for layer in layers for param in layer.parameters()]


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x**3, x.sign()

    @staticmethod
    def backward(ctx, cubed: Tensor, sign: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 3.0 * x**2 * cubed


def custom_function() -> Problem:
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    cubed, _ = Cube.apply(first(torch.randn(6, 5)))
    return losses_of(Cube.apply(second(cubed))[0]), [*first.parameters(), *second.parameters()]


def shared_bias() -> Problem:
    """Something computed once and used in every layer, as relative positions are."""
    table, layers = nn.Linear(5, 5), [nn.Linear(5, 5) for _ in range(3)]
    bias = table(torch.randn(5)).tanh()
    x = torch.randn(6, 5)
    for layer in layers:
        x = (layer(x) + bias).tanh()
    params = [*table.parameters(), *[param for layer in layers for param in layer.parameters()]]
    return losses_of(x), params


def wide_layers() -> Problem:
    """Layers with more numbers in their weights than at their outputs, alone and between waists."""
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3),
        nn.ReLU(),
        nn.Conv2d(40, 60, 3, stride=2, bias=False),
        nn.BatchNorm2d(60),
        nn.Flatten(),
    )
    end = nn.Sequential(nn.Linear(240, 50), nn.Tanh(), nn.Linear(50, 40))
    x = model(torch.randn(2, 3, 8, 8))
    return losses_of(end(x)), [*model.parameters(), *end.parameters()]


def one_loss() -> Problem:
    losses, params = chain()
    return losses[:1], params


PROBLEMS: dict[str, Callable[[], Problem]] = {
    make.__name__: make
    for make in (
        chain,
        residual,
        skips,
        tied,
        losses_at_different_depths,
        two_encoders,
        many_outputs,
        recurrent,
        recomputed,
        custom_function,
        shared_bias,
        wide_layers,
        one_loss,
    )
}


@pytest.fixture(autouse=True)
def in_double() -> object:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("budget", [1, 100, 1000, None, 10**9])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gramian_is_that_of_all_gradients_at_once(name: str, budget: int | None) -> None:
    losses, params = PROBLEMS[name]()
    found = folded_gramian(losses, params, budget=budget)
    assert found.dtype == torch.float64
    expected = naive(losses, params, [1.0] * len(losses))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.max()))
    present = [loss for loss in losses if loss is not None]
    sum(present).backward()  # type: ignore[union-attr]  # the graph is still there for the write


@pytest.mark.parametrize("budget", [1, None])
def test_seeds_and_edges_for_losses(budget: int | None) -> None:
    losses, params = residual()
    seeds = [2.0, -3.0, 0.0]
    roots = [None if loss is None else get_gradient_edge(loss) for loss in losses]
    found = folded_gramian(roots, params, seeds=[torch.tensor(seed) for seed in seeds], budget=budget)
    torch.testing.assert_close(found, naive(losses, params, seeds), rtol=1e-12, atol=1e-12)


def test_no_more_than_the_budget_is_held_together() -> None:
    losses, params = residual()
    nodes = [loss.grad_fn for loss in losses if loss is not None]
    largest = max(param.numel() for param in params)
    for limit in (1, largest, 3 * largest, 10**9):
        made = list(groups(nodes, params, [], limit))
        sizes = [sum(param.numel() for param in group.params) for group in made]
        assert max(sizes) <= max(limit, largest)
        assert {id(p) for group in made for p in group.params} == {id(p) for p in params}
    assert len(made) == 1


def test_wide_layers_are_read_at_their_outputs() -> None:
    losses, params = wide_layers()
    nodes = [loss.grad_fn for loss in losses if loss is not None]
    layers = [layer for layer in find_layers(nodes, params) if folding._spares(layer, 3)]
    assert len(layers) == 3
    made = list(groups(nodes, params, layers, 10**9))
    assert len(made) == 1
    assert [layer.params[0] is param for layer, param in zip(made[0].layers, params[::-1], strict=False)]
    assert sum(len(layer.params) for layer in layers) + len(made[0].params) == len(params)


def counted(model: nn.Module) -> list[str]:
    """The names of the layers whose backward ran, as it runs."""
    ran: list[str] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_full_backward_pre_hook(lambda *_, name=name: ran.append(name))  # type: ignore[misc]
    return ran


def test_where_the_graph_has_waists_every_layer_is_walked_once_per_loss() -> None:
    model = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(5, 5), nn.Tanh())])
    ran = counted(model)
    losses = losses_of(model(torch.randn(6, 5, requires_grad=True)))
    folded_gramian(losses, list(model.parameters()), budget=3 * 30)  # a layer at a time
    assert {name: ran.count(name) for name in ran} == {"0": 3, "2": 3, "4": 3, "6": 3}


def test_where_it_has_none_the_groups_are_read_one_by_one() -> None:
    model = Skips()
    ran = counted(model)
    losses = losses_of(model(torch.randn(6, 5, requires_grad=True)))
    folded_gramian(losses, list(model.parameters()), budget=3 * 30)
    assert max(ran.count(name) for name in set(ran)) > 3


def test_hooks_on_parameters_wait_for_the_write() -> None:
    losses, params = chain()
    expected = naive(losses, params, [1.0] * 3)
    calls: list[Tensor] = []
    handle = params[0].register_hook(lambda grad: calls.append(grad))
    params[1].register_hook(lambda grad: grad.clamp(-1e-3, 1e-3))
    torch.testing.assert_close(folded_gramian(losses, params), expected)
    assert calls == []
    sum(losses).backward()  # type: ignore[arg-type]
    assert len(calls) == 1
    assert float(params[1].grad.abs().max()) <= 1e-3
    handle.remove()
    assert not params[0]._backward_hooks


def test_hooks_are_there_again_after_an_error() -> None:
    losses, params = chain()
    params[0].register_hook(lambda grad: None)
    sum(losses).backward()  # type: ignore[arg-type]  # the graph is gone
    with pytest.raises(RuntimeError, match="second time"):
        folded_gramian(losses, params)
    assert len(params[0]._backward_hooks) == 1


def test_nothing_is_written() -> None:
    losses, params = residual()
    folded_gramian(losses, params, budget=1)
    assert all(param.grad is None for param in params)
