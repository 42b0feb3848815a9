"""A step that is refused or fails leaves `.grad` and the methods as they were, whenever that happens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.adversarial import GradientAlignment
from manyloss.aggregation import GradDrop
from manyloss.errors import NotFiniteError
from manyloss.weighting import MGDA, GradNorm, PCGrad
from tests.problems import Network, assert_identical
from tests.properties.methods import MethodCase, flat, methods


class Fails(torch.autograd.Function):
    """The identity, whose backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory, said the test")


class NotANumber(torch.autograd.Function):
    """The identity, whose gradient is nan."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.nan


def fill_gradients(network: Network, value: float | None) -> list[Tensor | None]:
    """What an accumulation has left in `.grad`; the very tensors."""
    for param in network.parameters():
        param.grad = None if value is None else torch.full_like(param, value)
    return [param.grad for param in network.parameters()]


def assert_untouched(network: Network, before: list[Tensor | None], value: float | None) -> None:
    for param, grad in zip(network.parameters(), before, strict=True):
        assert param.grad is grad
        assert grad is None or bool((grad == value).all())


def failing(network: Network, fault: type[torch.autograd.Function]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The first loss has the fault between its head and the features, so it shows in the backward."""
    features = network.encode(network.inputs(0))
    outputs = [
        head(fault.apply(features[0]) if i == 0 else features[0]) for i, head in enumerate(network.heads)
    ]
    return features, {f"loss_{i}": (out - 1.0).square().mean() for i, out in enumerate(outputs)}


@pytest.mark.parametrize("accumulated", [None, 3.0])
@pytest.mark.parametrize("where", ["usual", "shared_params"])
@pytest.mark.parametrize("fault", [Fails, NotANumber])
@methods(lambda case: case.reads_gradients)
def test_what_fails_in_the_backward_is_undone(
    case: MethodCase, fault: type[torch.autograd.Function], where: str, accumulated: float | None
) -> None:
    where = "usual" if case.needs_features else where
    network, multi = Network(), case.multi()
    case.step(multi, network)
    state = flat(multi.state_dict())
    before = fill_gradients(network, accumulated)
    features, losses = failing(network, fault)
    with pytest.raises((torch.OutOfMemoryError, NotFiniteError)):
        multi.backward(losses, **case.place(network, features, where))
    assert_untouched(network, before, accumulated)
    assert flat(multi.state_dict()) == state


@methods(lambda case: case.reads_gradients)
def test_a_first_step_that_fails_is_as_if_it_never_was(case: MethodCase) -> None:
    """Out of memory, then tried again: the method learns as a fresh one does."""
    network, twin = Network(), Network()
    multi, fresh = case.multi(), case.multi()
    features, losses = failing(network, Fails)
    with pytest.raises(torch.OutOfMemoryError):
        multi.backward(losses, **case.place(network, features))
    assert multi.names is None
    for step in range(3):
        assert_identical(case.step(multi, network, step)[0], case.step(fresh, twin, step)[0])
    assert flat(multi.state_dict()) == flat(fresh.state_dict())


def test_alignment_learns_after_a_failed_first_step() -> None:
    network, multi = Network(), MultiLoss(aggregator=GradientAlignment(seed=0))
    features, losses = failing(network, Fails)
    with pytest.raises(torch.OutOfMemoryError):
        multi.backward(losses, features=features[0])
    for step in range(3):
        network.zero_grad()
        features, losses = network.forward(step)
        multi.backward(losses, features=features[0])
    gamma = multi.aggregator.gamma("loss_0")
    assert bool((gamma != 1.0).any())


def raises(_: Tensor) -> Tensor:
    raise RuntimeError("this activation has a fault")


@pytest.mark.parametrize("accumulated", [None, 3.0])
@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: {"aggregator": GradDrop(activation=raises, seed=0)}, "this activation has a fault"),
        (lambda: {"weighting": MGDA("loss")}, "loss_0"),
        (lambda: {"weighting": GradNorm()}, "loss_0"),
    ],
    ids=["activation", "mgda of a zero loss", "gradnorm of a zero loss"],
)
def test_what_a_method_refuses(
    make: Callable[[], dict[str, Any]], text: str, read: str, accumulated: float | None
) -> None:
    network = Network()
    before = fill_gradients(network, accumulated)
    features, losses = network.forward()
    losses["loss_0"] = losses["loss_0"] * 0.0
    with pytest.raises((ValueError, RuntimeError), match=text):
        MultiLoss(**make(), read=read).backward(losses, features=features[0])
    assert_untouched(network, before, accumulated)


def test_a_users_hook_that_raises() -> None:
    network, multi = Network(), MultiLoss(PCGrad(seed=0))
    before = fill_gradients(network, 3.0)
    features, losses = network.forward()

    def hook(_: Tensor) -> None:
        raise KeyError("a hook of the user")

    features[0].register_hook(hook)
    with pytest.raises(KeyError):
        multi.backward(losses, features=features[0])
    assert_untouched(network, before, 3.0)


@pytest.mark.filterwarnings("ignore:.*only a part of the gradient there is merged")
def test_paths_around_the_features_are_undone_too() -> None:
    """An earlier activation reaches a loss without passing the features."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4).double(), nn.Linear(4, 4).double()
    first.weight.grad = torch.full_like(first.weight, 2.0)
    h = first(torch.randn(5, 3, dtype=torch.float64)).tanh()
    z = second(h).tanh()
    losses = {"a": (NotANumber.apply(z).sum(1) + h.sum(1)).square().mean(), "b": z.square().mean()}
    with pytest.raises(NotFiniteError, match="'a'"):
        MultiLoss(MGDA()).backward(losses, features=z)
    assert bool((first.weight.grad == 2.0).all())
    assert second.weight.grad is None
