"""Saving, reloading into a fresh object and going on gives bit-identical steps; other losses are refused."""

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.errors import CheckpointError
from manyloss.state import tensor_to_text, text_to_tensor
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
def test_a_state_holds_flat_tensors_only(case: MethodCase) -> None:
    """So every loop over a state_dict that clones, moves or averages tensors works."""
    network, multi = Network(), case.multi()
    train(case, multi, network, range(2), "usual")
    method_entries = {key: value for key, value in multi.state_dict().items() if key != "_extra_state"}
    assert method_entries
    for value in method_entries.values():
        assert type(value) is Tensor
        assert value.device.type == "cpu"
        assert not value.requires_grad


LOOPS = {
    "clone": lambda old, new: new.clone(),
    "average of floating point": lambda old, new: (
        old.lerp(new, 0.1) if new.is_floating_point() else new.clone()
    ),
    "through float32": lambda old, new: new.float() if new.is_floating_point() else new.clone(),
}


@pytest.mark.parametrize("loop", LOOPS)
@every_method
def test_what_a_loop_over_a_state_made_can_be_loaded(case: MethodCase, loop: str) -> None:
    network, multi = Network(), case.multi()
    train(case, multi, network, range(2), "usual")
    old = multi.state_dict()
    train(case, multi, network, range(2, 4), "usual")
    made = {
        key: LOOPS[loop](old[key], value) if isinstance(value, Tensor) else value
        for key, value in multi.state_dict().items()
    }
    fresh = case.multi(seed=1234)
    fresh.load_state_dict(made)
    twin = Network()
    gradients, _ = case.step(fresh, twin, 4)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@every_method
def test_an_average_of_every_entry_is_loaded_or_refused_by_name(case: MethodCase) -> None:
    """A loop that treats bytes like numbers rounds them; equal sides may come out one lower."""
    network, method = Network(), case.make()
    train(case, case.wrap(method), network, range(2), "usual")
    state = method.state_dict()
    averaged = {key: value.clone() for key, value in state.items()}
    for key, value in averaged.items():
        value.copy_(0.999 * value + (1 - 0.999) * state[key])
    fresh = case.make(seed=1234)
    if "generator" in averaged and not torch.equal(averaged["generator"], state["generator"]):
        with pytest.raises(ValueError, match=f"generator of {case.name} was changed"):
            fresh.load_state_dict(averaged)
    else:
        fresh.load_state_dict(averaged)
        assert fresh.names == method.names


@every_method
def test_bytes_of_an_older_version_are_refused_by_name(case: MethodCase) -> None:
    fresh = case.make()
    before = flat(fresh.state_dict())
    with pytest.raises(ValueError, match=f"holds the state of {case.name} as bytes"):
        fresh.load_state_dict({"_extra_state": b"..."})
    assert flat(fresh.state_dict()) == before


@every_method
def test_a_state_without_some_of_its_entries_is_refused(case: MethodCase) -> None:
    network, method = Network(), case.make()
    train(case, case.wrap(method), network, range(2), "usual")
    state = method.state_dict()
    for key in [key for key in state if key.startswith("state.")][:1]:
        del state[key]
        fresh = case.make()
        before = flat(fresh.state_dict())
        with pytest.raises(ValueError, match="lacks"):
            fresh.load_state_dict(state)
        assert flat(fresh.state_dict()) == before


@pytest.mark.parametrize("text", ["", "GradNorm", '["größer", "名前", "a.b"]'])
def test_text_survives_clones_casts_and_averages(text: str) -> None:
    tensor = text_to_tensor(text)
    for made in (tensor.clone(), tensor.half().float(), tensor.bfloat16(), 0.9 * tensor + (1 - 0.9) * tensor):
        assert tensor_to_text(made) == text
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensor_to_text(torch.full((3,), 999.0))


@every_method
def test_a_copy_goes_on_alike_and_apart(case: MethodCase) -> None:
    """`copy.deepcopy` shares nothing: views of a learned tensor stay views of the copy's own."""
    network, multi = Network(), case.multi()
    train(case, multi, network, range(3), "usual")
    twin, twin_network = copy.deepcopy(multi), copy.deepcopy(network)
    expected = train(case, multi, network, range(3, 6), "usual")
    assert_identical(train(case, twin, twin_network, range(3, 6), "usual"), expected)


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
