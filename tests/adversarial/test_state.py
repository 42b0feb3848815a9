"""Saved states are flat tensors: they are cloned, averaged, written and loaded like any model's."""

import copy
import io

import pytest
import torch

from manyloss.adversarial import GradientDefense
from manyloss.errors import CheckpointError
from tests.adversarial.methods import LEARNING, METHODS, made
from tests.adversarial.nets import convolutional, images


def trained(name, seed, steps=3):
    torch.manual_seed(seed)
    method = made(name, convolutional, progress=0.3)
    optimizer = torch.optim.SGD(method.trained.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        method.backward(*images(8))
        optimizer.step()
    return method


def assert_go_on_alike(first, second):
    for method in (first, second):
        method.zero_grad()
        torch.manual_seed(9)
        for _ in range(2):
            method.backward(*images(8))
    for (name, one), (_, two) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, two), name
    for one, two in zip(first.trained.parameters(), second.trained.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_is_flat_tensors_that_are_cloned_and_written(name):
    method = trained(name, 1)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = made(name, convolutional, progress=0.0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_go_on_alike(method, fresh)


@pytest.mark.parametrize("name", METHODS)
def test_an_average_of_states_loads(name):
    states = [trained(name, seed).state_dict() for seed in (1, 2)]
    assert states[0].keys() == states[1].keys()
    mean = {
        key: (value + states[1][key]) / 2 if value.is_floating_point() else value
        for key, value in states[0].items()
    }
    method = made(name, convolutional)
    method.load_state_dict(mean)
    assert torch.isfinite(method.backward(*images(8)).objective)


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_goes_on_like_the_original(name):
    method = trained(name, 1)
    assert_go_on_alike(method, copy.deepcopy(method))


def test_the_ramp_is_saved():
    method = trained("defense", 1)
    fresh = GradientDefense(convolutional(), convolutional())
    assert fresh.alpha == 0
    fresh.load_state_dict(method.state_dict())
    assert fresh.alpha == method.alpha > 0


@pytest.mark.parametrize("name", LEARNING)
def test_a_checkpoint_of_before_is_refused_by_name_and_nothing_changes(name):
    method = trained(name, 1)
    old = {key: value for key, value in method.state_dict().items() if "adversary.inner" not in key}
    del old["adversary.method"]
    old["adversary._extra_state"] = b"pickled"
    before = {key: value.clone() for key, value in method.state_dict().items()}
    for key in old:
        if isinstance(old[key], torch.Tensor) and old[key].is_floating_point():
            old[key] = old[key] + 1
    with pytest.raises(CheckpointError, match="holds the state of Adversary as bytes"):
        method.load_state_dict(old)
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_models_weights_alone_load_where_that_is_asked_for():
    method = trained("defense", 1)
    weights = {f"model.{key}": value + 1 for key, value in method.model.state_dict().items()}
    steps = method.watch.steps
    assert "watch" in method.load_state_dict(weights, strict=False).missing_keys
    assert torch.equal(method.model[0].weight, weights["model.0.weight"])
    assert method.watch.steps == steps
    with pytest.raises(RuntimeError, match=r"Missing key.*watch"):
        method.load_state_dict(weights)


def test_casting_the_method_leaves_its_numbers():
    method = trained("defense", 1)
    alpha, accuracy = method.alpha, method.watch.running_accuracy
    method.half()
    assert (method.alpha, method.watch.running_accuracy) == (alpha, accuracy)
