"""Bad input: an error names the loss, what was received and the way out; nothing changes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.weighting import MGDA
from tests.problems import Given, Network, assert_same, names
from tests.properties.methods import MethodCase, every_method, flat, methods


@contextmanager
def nothing_written(multi: MultiLoss, network: Network) -> Iterator[None]:
    """Gradients stay None and the state stays as it is."""
    network.zero_grad()
    before = flat(multi.state_dict())
    yield
    assert network.gradients() == [None] * len(network.parameters())
    assert flat(multi.state_dict()) == before


def refused(case: MethodCase, change, match: str, kind: type[Exception] = ValueError, where: str = "usual"):
    """`change(losses, place)` spoils a good call; tried on a fresh MultiLoss and on one that has run."""
    for warm in (False, True):
        network, multi = Network(), case.multi()
        if warm:
            case.step(multi, network)
        features, losses = network.forward(1)
        place = case.place(network, features, where)
        given = change(losses, place)
        with nothing_written(multi, network), pytest.raises(kind, match=match):
            multi.backward(losses if given is None else given, **place)
        # and the object still works
        gradients, _ = case.step(multi, network, 2)
        assert all(gradient is not None for gradient in gradients)


@every_method
def test_a_loss_that_is_not_a_scalar(case: MethodCase) -> None:
    def change(losses, place):
        losses["loss_1"] = losses["loss_1"] * torch.ones(4, 2, dtype=torch.float64)

    refused(case, change, r"'loss_1' must be a scalar, got shape \[4, 2\].*\.mean\(\)")


@every_method
def test_a_loss_that_is_a_number(case: MethodCase) -> None:
    def change(losses, place):
        losses["loss_2"] = 0.5

    refused(case, change, "'loss_2' must be a scalar tensor or None, got float", TypeError)


@every_method
def test_a_loss_without_a_graph(case: MethodCase) -> None:
    def change(losses, place):
        losses["loss_0"] = losses["loss_0"].detach()

    refused(case, change, "'loss_0' does not require grad.*[Pp]ass None")


@methods(lambda case: case.reads_gradients and not case.measures_at_shared_params)
def test_a_loss_that_reaches_none_of_the_features(case: MethodCase) -> None:
    def change(losses, place):
        stranger = torch.ones(3, dtype=torch.float64, requires_grad=True)
        losses["loss_1"] = stranger.sum()

    refused(case, change, "'loss_1' reaches none of the features.*in-place")


@methods(lambda case: case.reads_gradients)
def test_a_loss_that_reaches_none_of_the_shared_parameters(case: MethodCase) -> None:
    def change(losses, place):
        stranger = torch.ones(3, dtype=torch.float64, requires_grad=True)
        losses["loss_1"] = stranger.sum()

    refused(case, change, "'loss_1' reaches none of the shared", where="shared_params")


@every_method
def test_features_without_grad(case: MethodCase) -> None:
    def change(losses, place):
        place["features"] = place["features"].detach()

    refused(case, change, r"features.*shape \[6, 5\].*do not require grad", where="features")


@every_method
def test_features_that_are_no_tensor(case: MethodCase) -> None:
    def change(losses, place):
        place["features"] = ["z"]

    refused(case, change, "features must be a tensor.*str", TypeError, where="features")


@every_method
def test_features_that_depend_on_each_other(case: MethodCase) -> None:
    def change(losses, place):
        features = place["features"]
        place["features"] = [features, features * 2.0]

    refused(case, change, "do not depend on each other", where="features")


@every_method
def test_shared_params_that_are_no_leaves(case: MethodCase) -> None:
    def change(losses, place):
        place["shared_params"] = [place["shared_params"][0] * 2.0]

    refused(case, change, "shared_params item 0.*not a leaf", where="shared_params")


@every_method
def test_one_name_twice(case: MethodCase) -> None:
    class Twice(dict):
        """A mapping that yields one name twice, as a careless subclass may."""

        def items(self):
            return [*super().items(), *list(super().items())[:1]]

        def __iter__(self):
            return iter([name for name, _ in self.items()])

        def keys(self):
            return list(iter(self))

        def __len__(self):
            return len(self.items())

        def values(self):
            return [value for _, value in self.items()]

    refused(case, lambda losses, place: Twice(losses), "'loss_0'.*name of its own")


@every_method
def test_names_that_are_no_strings(case: MethodCase) -> None:
    refused(
        case,
        lambda losses, place: dict(enumerate(losses.values())),
        "must be a string|differ from those of the first call",
        (TypeError, ValueError),
    )


@every_method
def test_a_container_of_another_kind(case: MethodCase) -> None:
    refused(case, lambda losses, place: 3.0, "losses must be a mapping.*float", TypeError)


@every_method
def test_no_losses_at_all(case: MethodCase) -> None:
    def change(losses, place):
        for name in losses:
            losses[name] = None

    refused(case, change, "No losses")


@every_method
def test_losses_in_another_order_than_at_first(case: MethodCase) -> None:
    network, multi = Network(), case.multi()
    case.step(multi, network)
    features, losses = network.forward()
    place = case.place(network, features)
    with nothing_written(multi, network), pytest.raises(ValueError, match="another order"):
        multi.backward(dict(reversed(losses.items())), **place)


@every_method
def test_a_loss_on_another_device(case: MethodCase) -> None:
    def change(losses, place):
        losses["loss_1"] = torch.ones((), device="meta", requires_grad=True) * 2.0

    refused(case, change, "'loss_1' is on meta.*cpu.*one device")


@methods(lambda case: case.weighs_gradients or case.family == "penalties" or case.name == "GradDrop")
def test_no_place_to_read_gradients(case: MethodCase) -> None:
    def change(losses, place):
        place.clear()

    refused(case, change, r"features=.*shared_params=")


@methods(lambda case: not case.measures_at_shared_params)
def test_features_used_in_place_first(case: MethodCase) -> None:
    """ReLU(inplace=True) as first layer of the heads cuts the connection: the error says so."""
    network, multi = Network(), case.multi()
    features = network.encode(network.inputs(0))[0]
    torch.relu_(features)
    early = features.grad_fn
    assert early is not None
    given = network.encode(network.inputs(0))[0]
    losses = {name: head(features).mean() for name, head in zip(names(3), network.heads, strict=True)}
    with nothing_written(multi, network), pytest.raises(ValueError, match="in-place"):
        multi.backward(losses, features=given)


def test_a_weighting_given_as_a_class() -> None:
    with pytest.raises(TypeError, match=r"MGDA\(\.\.\.\)"):
        MultiLoss(weighting=MGDA)


def test_a_weighting_that_is_none_of_ours() -> None:
    with pytest.raises(TypeError, match="weighting must be a manyloss"):
        MultiLoss(weighting=nn.Linear(1, 1))


def test_an_unknown_rescale() -> None:
    with pytest.raises(ValueError, match="rescale must be one of"):
        MultiLoss(rescale="norm")


# ---------------------------------------------------------------- after an error, autograd is as before


@pytest.mark.parametrize("read", ["auto", "per_loss"])
@methods(lambda case: not case.measures_at_shared_params)
def test_no_hook_is_left_behind(case: MethodCase, read: str) -> None:
    """A plain backward through the same features afterwards is plain, also after a failed step."""
    rows = torch.tensor([[[1.0, -2.0]], [[-3.0, 1.0]], [[float("nan"), 0.0]]], dtype=torch.float64)
    for count in (2, 3):
        given = Given(rows[:count])
        features = given.point + 0.0  # its graph can be gone through again
        multi = case.multi(count, read=read)
        losses = given.losses(features)
        if count == 3:
            losses["loss_2"] = losses["loss_2"] * float("nan")
            with pytest.raises(ValueError, match="loss_2"):
                multi.backward(losses, features=features)
            assert given.point.grad is None
        else:
            multi.backward(losses, features=features)
        given.point.grad = None
        (features * 3.0).sum().backward()
        assert_same([given.point.grad], [torch.full_like(given.point, 3.0)])
