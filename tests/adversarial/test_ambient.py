"""Whatever torch is set to around the call, the step is the same."""

import copy
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from manyloss.adversarial import GradientDefense, batchnorm_cosine
from tests.adversarial.methods import METHODS, made
from tests.adversarial.nets import batch, convolutional, images, smooth


@contextmanager
def default_device():
    torch.set_default_device("meta")  # a tensor made without a device has no values here
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Passing(TorchFunctionMode):
    """A function mode of the user's, such as a profiler has."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


AMBIENT = {
    "no_grad": torch.no_grad,
    "default device": default_device,
    "default dtype": default_dtype,
    "deterministic": deterministic,
    "function mode": Passing,
    "anomaly": lambda: torch.autograd.detect_anomaly(check_nan=False),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_does_not_depend_on_what_torch_is_set_to(name, ambient, scaled):
    torch.manual_seed(0)
    method = made(name, convolutional)
    twin = copy.deepcopy(method)
    x, y = images(8)
    for each, around in ((method, AMBIENT[ambient]), (twin, nullcontext)):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if scaled else None
        for _ in range(2):
            with around():
                result = each.backward(x, y, grad_scaler=scaler, batchnorm_cosine=True)
        assert not result.skipped
    for one, two in zip(method.trained.parameters(), twin.trained.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    for key, value in twin.state_dict().items():
        assert torch.equal(method.state_dict()[key], value), key


@pytest.mark.parametrize("ambient", ["default device", "default dtype", "no_grad"])
@pytest.mark.parametrize("name", METHODS)
def test_made_under_it_too(name, ambient):
    torch.manual_seed(0)
    networks = [smooth(4), smooth(4), smooth(1)]
    twins = copy.deepcopy(networks)
    x, y = batch(8)
    with AMBIENT[ambient]():
        method = METHODS[name](*networks)
        method.set_progress(0.5)
        method.backward(x, y)
        saved = copy.deepcopy(method.state_dict())
        method.load_state_dict(saved)
        method.backward(x, y)
    twin = METHODS[name](*twins)
    twin.set_progress(0.5)
    for _ in range(2):
        twin.backward(x, y)
    for one, two in zip(networks[0].parameters(), twins[0].parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("name", METHODS)
def test_inference_mode_is_refused_with_the_reason(name):
    method = made(name, convolutional)
    x, y = images(8)
    with (
        torch.inference_mode(),
        pytest.raises(
            RuntimeError, match=r"inside torch.inference_mode\(\), where no graph is kept: leave it"
        ),
    ):
        method.backward(x, y)
    with torch.inference_mode():  # the data of an evaluation, say
        x, y = x.clone(), y.clone()
    assert torch.isfinite(method.backward(x, y).objective)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_networks_take_part(name):
    torch.manual_seed(0)
    method = METHODS[name](smooth(4, torch.bfloat16), smooth(4), smooth(1))
    method.set_progress(0.5)
    x, y = batch(8, dtype=torch.float32)
    if name in ("distillation", "minimax", "sobolev", "soft targets"):
        method.teacher.bfloat16()
    result = method.backward(x.bfloat16(), y)
    assert result.loss.dtype == torch.float32
    assert all(p.grad.dtype == torch.bfloat16 for p in method.trained.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_autocast_stays_near_float32(name):
    torch.manual_seed(0)
    method = made(name, convolutional)
    twin = copy.deepcopy(method)
    x, y = images(64)
    with torch.autocast("cpu", torch.bfloat16):
        method.backward(x, y)
    twin.backward(x, y)
    mine, full = (torch.cat([p.grad.flatten() for p in each.trained.parameters()]) for each in (method, twin))
    assert torch.nn.functional.cosine_similarity(mine, full, dim=0) > 0.97


def test_batchnorm_cosine_works_without_grad():
    model = convolutional()
    x, y = images()
    with torch.no_grad():
        found = batchnorm_cosine(model, x, y)
    torch.testing.assert_close(found, batchnorm_cosine(model, x, y))


def test_a_half_auxiliary_keeps_its_type():
    auxiliary = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).bfloat16()
    method = GradientDefense(smooth(dtype=torch.float32), auxiliary)
    before = auxiliary[1].weight.detach().clone()
    method.backward(*batch(dtype=torch.float32))
    assert auxiliary[1].weight.dtype == torch.bfloat16
    assert not torch.equal(before, auxiliary[1].weight)
