"""A call that fails or is skipped leaves everything as it was: the next one is that of a fresh object."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyloss.adversarial import GradientDefense, GradientDistillation
from manyloss.errors import NotFiniteError
from tests.adversarial.methods import LEARNING, METHODS, READING, made
from tests.adversarial.nets import images


class BrokenError(Exception):
    """What a user's code raises."""


class Network(nn.Module):
    """BatchNorm, second derivatives, a buffer that every forward replaces, and places that can break."""

    def __init__(self, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(48, outputs),
        )
        self.register_buffer("calls", torch.zeros(()))
        self.breaks_in_backward = self.breaks = False
        self.handles = []

    def forward(self, x):
        self.calls = self.calls + 1
        if self.breaks:
            raise BrokenError
        outputs = self.body(x)
        if self.breaks_in_backward:  # the last gradient to arrive is the first layer's
            self.handles.append(self.body[0].weight.register_hook(self.fail))
        return outputs

    @staticmethod
    def fail(_):
        raise BrokenError


def network(outputs):
    return Network(outputs)


def everything(method):
    """State, buffers and ``.grad`` of all networks, and what their optimiser holds."""
    found = {name: value.clone() for name, value in method.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in method.named_parameters()}
    return found, grads


def assert_same(before, method):
    after = everything(method)
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for name, value in old.items():
            assert (value is None) == (new[name] is None), name
            if value is not None:
                torch.testing.assert_close(new[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


def raising_loss(outputs, y):
    raise BrokenError


def break_loss(method):
    return {"loss": raising_loss}


def break_backward(method):
    method.trained.breaks_in_backward = True
    return {}


def break_adversary(method):
    method.adversary.network.breaks = True
    return {}


def break_teacher(method):
    method.teacher.breaks = True
    return {}


def break_cosine(method):
    calls = []

    def third(outputs, y):
        calls.append(1)
        if len(calls) == 2 + isinstance(method, GradientDistillation):
            raise BrokenError
        return F.cross_entropy(outputs, y)

    return {"batchnorm_cosine": True, "loss": third}


def mend(method):
    for module in method.modules():
        if isinstance(module, Network):
            module.breaks = module.breaks_in_backward = False
            for handle in module.handles:
                handle.remove()


CASES = [
    *((name, break_loss) for name in METHODS),
    *((name, break_backward) for name in METHODS),
    *((name, break_adversary) for name in LEARNING),
    *((name, break_teacher) for name in ("distillation", "sobolev", "soft targets")),
    *((name, break_cosine) for name in ("defense", "two-pass", "distillation")),
]


@pytest.mark.parametrize("grads", [False, True], ids=["no grads", "grads"])
@pytest.mark.parametrize(("name", "broken"), CASES, ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_a_failed_call_leaves_no_trace(name, broken, grads, first):
    torch.manual_seed(0)
    method = made(name, network)
    other = copy.deepcopy(method)
    x, y = images(8)
    for each in (method, other):
        if not first:
            each.backward(x, y)
        for parameter in each.trained.parameters():
            parameter.grad = torch.ones_like(parameter) if grads else None
    kept = [parameter.grad for parameter in method.trained.parameters()]
    before = everything(method)
    settings = broken(method)
    with pytest.raises(BrokenError):
        method.backward(x, y, **settings)
    mend(method)
    assert_same(before, method)
    assert all(p.grad is grad for p, grad in zip(method.trained.parameters(), kept, strict=True))
    method.backward(x, y)
    other.backward(x, y)
    assert_same(everything(other), method)


def square_root(outputs):
    """sqrt(w) at w = 0: a finite loss, and an infinite gradient in ``.grad`` only."""

    class Model(Network):
        def __init__(self, outputs):
            super().__init__(outputs)
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return super().forward(x) + self.scale.sqrt()

    return Model(outputs)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_is_finite_or_nothing_is_written(name):
    torch.manual_seed(0)
    method = METHODS[name](square_root(4), network(4), network(1))
    method.set_progress(0.5)
    before = everything(method)
    y = torch.randint(4, (8,))
    weights = torch.rand(4)

    def loss(outputs, y):
        return (outputs * weights).square().mean()  # cross-entropy does not see a constant

    with pytest.raises(NotFiniteError, match="A gradient of the model's parameters holds NaN or infinite"):
        method.backward(images(8)[0], y, loss=loss)
    assert_same(before, method)


@pytest.mark.parametrize("name", METHODS)
def test_a_skipped_step_leaves_the_scaler_something_to_see_and_nothing_else(name):
    torch.manual_seed(0)
    method = METHODS[name](square_root(4), network(4), network(1))
    method.set_progress(0.5)
    before = everything(method)[0]
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = torch.optim.SGD(method.trained.parameters(), 0.1)
    x, y = images(8)
    result = method.backward(x, y, loss=lambda z, _: z.square().mean(), grad_scaler=scaler)
    assert result.skipped
    assert result.warnings == (
        "A gradient of the model's parameters is not finite; the GradScaler skips this step.",
    )
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 32.0
    optimizer.zero_grad()
    assert_same((before, everything(method)[1]), method)


def test_out_of_memory_is_no_advice_about_shapes():
    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(16, 4)

        def forward(self, x):
            raise torch.OutOfMemoryError("no room")

    method = GradientDefense(network(4), Full())
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        method.backward(*images())


def test_an_optimizer_that_fails_leaves_no_gradients_behind():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise BrokenError

    method = GradientDefense(network(4), network(4), optimizer=lambda params: Failing(params, lr=0.1))
    before = everything(method)
    with pytest.raises(BrokenError):
        method.backward(*images())
    assert_same(before, method)


@pytest.mark.parametrize("name", [name for name in READING if name != "reweighted"])
def test_ctc_like_losses_are_refused_before_anything_is_written(name):
    method = made(name, network)
    before = everything(method)
    with pytest.raises(
        NotImplementedError, match=r"double backward of the (model|student), and torch has none"
    ):
        method.backward(*images(), loss=F.multi_margin_loss)
    assert_same(before, method)


def test_a_detached_mask_differentiates_the_loss_once():
    method = made("reweighted", network)
    assert torch.isfinite(method.backward(*images(), loss=F.multi_margin_loss).loss)
