"""Saving, reloading into a fresh object and going on gives bit-identical steps; other losses are refused."""

import gc
import io
import weakref

import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.weighting import MGDA, Static
from tests.problems import Network, assert_identical, names
from tests.properties.methods import MethodCase, every_method, flat


def through_a_file(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def train(case: MethodCase, multi: MultiLoss, network: Network, steps: range, where: str) -> list[Tensor]:
    """Gradients of every step; the network moves, an epoch ends every second step."""
    written = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for step in steps:
        gradients, _ = case.step(multi, network, step, where)
        written += gradients
        optimizer.step()
        if step % 2 == 1:
            multi.end_epoch()
    return written


@pytest.mark.parametrize("place", ["usual", "shared_params"])
@pytest.mark.parametrize("saved_after", [0, 1, 6])
@every_method
def test_a_fresh_object_goes_on_bit_by_bit(case: MethodCase, saved_after: int, place: str) -> None:
    network, multi = Network(), case.multi(seed=7)
    train(case, multi, network, range(saved_after), place)
    saved = through_a_file({"multi": multi.state_dict(), **_weights(network)})

    expected = train(case, multi, network, range(saved_after, saved_after + 6), place)
    resumed, fresh = Network(seed=99), case.multi(seed=1234)
    resumed.encoder.load_state_dict(saved["encoder"])
    resumed.heads.load_state_dict(saved["heads"])
    fresh.load_state_dict(saved["multi"])
    assert_identical(train(case, fresh, resumed, range(saved_after, saved_after + 6), place), expected)


def _weights(network: Network) -> dict:
    return {"encoder": network.encoder.state_dict(), "heads": network.heads.state_dict()}


@every_method
def test_a_used_object_can_go_back(case: MethodCase) -> None:
    network, multi = Network(), case.multi()
    train(case, multi, network, range(3), "usual")
    saved = through_a_file({"multi": multi.state_dict(), **_weights(network)})
    expected = train(case, multi, network, range(3, 6), "usual")
    network.encoder.load_state_dict(saved["encoder"])
    network.heads.load_state_dict(saved["heads"])
    multi.load_state_dict(saved["multi"])
    assert_identical(train(case, multi, network, range(3, 6), "usual"), expected)


@every_method
def test_a_saved_state_does_not_change_afterwards(case: MethodCase) -> None:
    network, multi = Network(), case.multi()
    train(case, multi, network, range(2), "usual")
    state = multi.state_dict()
    before = flat(state)
    train(case, multi, network, range(2, 5), "usual")
    assert flat(state) == before


@every_method
def test_a_checkpoint_of_other_losses_is_refused_by_name(case: MethodCase) -> None:
    multi = case.multi(2)
    case.step(multi, Network(2))
    state = multi.state_dict()

    def go_on_with_other_losses() -> None:
        other = case.multi(3)
        other.load_state_dict(state)
        case.step(other, Network(3))

    with pytest.raises(ValueError, match="loss_2"):
        go_on_with_other_losses()


@every_method
def test_a_checkpoint_of_another_method_is_refused(case: MethodCase) -> None:
    multi = case.multi()
    case.step(multi, Network())
    state = multi.state_dict()
    other = MultiLoss(weighting=Static([1.0, 1.0, 1.0]) if case.name != "Static" else MGDA())
    before = flat(other.state_dict())
    with pytest.raises((ValueError, RuntimeError), match=case.name):
        other.load_state_dict(state)
    assert flat(other.state_dict()) == before


@every_method
def test_other_losses_than_at_first_are_refused_by_name(case: MethodCase) -> None:
    multi = case.multi(2)
    network = Network(3)
    features, losses = network.forward()
    place = case.place(network, features)
    multi.backward({name: losses[name] for name in names(2)}, **place)
    features, losses = network.forward()
    place = case.place(network, features)
    network.zero_grad()
    before = flat(multi.state_dict())
    with pytest.raises(ValueError, match="loss_2"):
        multi.backward(losses, **place)
    assert all(gradient is None for gradient in network.gradients())
    assert flat(multi.state_dict()) == before


@every_method
def test_learned_state_and_model_do_not_leak_into_each_other(case: MethodCase) -> None:
    """No tensor of the method's state takes part in a graph, and no graph outlives the step."""
    gc.freeze()  # what was there before need not be looked through
    network, multi = Network(), case.multi()
    features, losses = network.forward()
    alive = [weakref.ref(features[0]), *[weakref.ref(loss) for loss in losses.values()]]
    result = multi.backward(losses, **case.place(network, features))
    for kept in [*_tensors(vars(multi)), *_tensors({"result": result})]:
        assert kept.grad_fn is None
        assert kept.grad is None
    del features, losses
    gc.collect()
    gc.unfreeze()
    assert [reference() for reference in alive] == [None] * len(alive)


def _tensors(found: object, seen: set[int] | None = None) -> list[Tensor]:
    """Every tensor that can be reached from an object of this package or a container."""
    seen = set() if seen is None else seen
    if id(found) in seen:
        return []
    seen.add(id(found))
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, dict):
        return [tensor for value in found.values() for tensor in _tensors(value, seen)]
    if isinstance(found, list | tuple | set):
        return [tensor for value in found for tensor in _tensors(value, seen)]
    if type(found).__module__.startswith("manyloss") or isinstance(found, torch.optim.Optimizer):
        return _tensors(getattr(found, "__dict__", {}), seen)
    return []
