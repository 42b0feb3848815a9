"""Our second derivatives against torch's own."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from manyloss.adversarial import GradientDefense, GradientDistillation, SobolevTraining, _second, networks
from manyloss.adversarial._second import SecondDerivatives, inputs_only

CONVOLUTIONS = {
    "1d": (F.conv1d, (2, 3, 7), (4, 3, 3), {"padding": 1}),
    "2d": (F.conv2d, (2, 3, 5, 4), (4, 3, 3, 2), {}),
    "2d strided": (F.conv2d, (2, 3, 6, 6), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "2d dilated": (F.conv2d, (2, 2, 6, 5), (3, 2, 2, 2), {"dilation": (2, 1), "padding": (1, 0)}),
    "2d grouped": (F.conv2d, (2, 4, 4, 4), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "2d depthwise": (F.conv2d, (2, 3, 4, 4), (3, 1, 3, 3), {"groups": 3}),
    "2d pointwise": (F.conv2d, (2, 3, 4, 4), (5, 3, 1, 1), {"stride": 2}),
    "3d": (F.conv3d, (1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"stride": (1, 2, 1)}),
    "2d by name": (F.conv2d, (2, 3, 4, 4), (4, 3, 3, 3), {"padding": "same"}),
    "2d unbatched": (F.conv2d, (3, 4, 4), (4, 3, 3, 3), {"padding": 1}),
}


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def ours(function):
    def call(*inputs):
        with SecondDerivatives():
            return function(*inputs)

    return call


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_have_all_first_and_second_derivatives(name, bias):
    function, shape, weight, options = CONVOLUTIONS[name]
    inputs = [drawn(*shape), drawn(*weight), *([drawn(weight[0])] if bias else [])]
    call = ours(lambda x, w, b=None: function(x, w, b, **options))
    torch.testing.assert_close(call(*inputs), function(*inputs, **options), rtol=0, atol=0)
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 6), (3, 3, 4, 2), (2, 3, 2, 3, 2)], ids=str)
def test_batch_norm_has_all_first_and_second_derivatives(shape, affine):
    x = drawn(*shape)
    weights = [drawn(3), drawn(3)] if affine else []
    if affine:
        weights[0].data[1] = 0.0  # as residual networks initialise it
    call = ours(lambda x, w=None, b=None: F.batch_norm(x, None, None, w, b, True, 0.1, 0.1))
    assert gradcheck(call, [x, *weights])
    assert gradgradcheck(call, [x, *weights])


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_batch_norm_in_single_precision_is_as_near_as_torchs(scale):
    torch.manual_seed(0)
    x = torch.randn(16, 4, 8, 8) * scale + 3 * scale
    weight, bias = torch.rand(4), torch.rand(4)
    sent, seen = torch.randn(2, *x.shape) + 1  # means that cancel

    def second(dtype, within):
        x_, w_ = x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        with within:
            y = F.batch_norm(x_, None, None, w_, bias.to(dtype), True)
        (g,) = torch.autograd.grad(y, x_, sent.to(dtype), create_graph=True)
        return torch.autograd.grad(g, (x_, w_), seen.to(dtype))

    exact = second(torch.float64, nullcontext())
    here, torchs = second(torch.float32, SecondDerivatives()), second(torch.float32, nullcontext())
    for right, own, other in zip(exact, here, torchs, strict=True):
        own_error, others = (own - right).abs().max(), (other - right).abs().max()
        assert own_error <= 4 * others + 1e-6 * right.abs().max()


def test_running_statistics_and_eval_mode_are_torchs():
    torch.manual_seed(0)
    here, there = nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, momentum=0.3)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5, requires_grad=True)
        with SecondDerivatives():
            own = here(x)
        assert torch.equal(own, there(x))
    for name, value in there.state_dict().items():
        assert torch.equal(here.state_dict()[name], value), name
    here.eval()
    with SecondDerivatives():
        evaluated = here(x)
    assert type(evaluated.grad_fn).__name__ == "NativeBatchNormBackward0"


def test_a_single_value_per_channel_is_torchs_error():
    with SecondDerivatives(), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.randn(1, 3, requires_grad=True))


def test_half_precision_and_autocast_are_left_alone():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    with SecondDerivatives(), torch.autocast("cpu", torch.bfloat16):
        assert "_BatchNorm" not in type(layer(x).grad_fn).__name__
    with SecondDerivatives():
        assert "_BatchNorm" in type(layer(x).grad_fn).__name__
        assert "_BatchNorm" not in type(layer.bfloat16()(x.bfloat16()).grad_fn).__name__


def test_a_vmapped_model_is_left_alone():
    x, weights = drawn(2, 3, 5, 5), drawn(4, 6, 3, 3, 3)
    ensemble = torch.func.vmap(lambda w: F.conv2d(x, w))
    with SecondDerivatives():
        outputs = ensemble(weights)
    torch.testing.assert_close(outputs, ensemble(weights))
    assert gradgradcheck(ours(lambda w: torch.func.vmap(lambda each: F.conv2d(x, each))(w)), [weights])


def test_a_read_of_the_inputs_computes_no_weight_gradient(monkeypatch):
    masks = []
    inner = _second._convolution_backward

    def counted(*arguments):
        masks.append(arguments[-1])
        return inner(*arguments)

    monkeypatch.setattr(_second, "_convolution_backward", counted)
    x, w = drawn(2, 3, 4, 4), drawn(4, 3, 3, 3)
    with SecondDerivatives():
        loss = F.conv2d(x, w).sin().sum()
    with inputs_only():
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
    assert masks == [[True, False, False]]
    (g.square().sum() + loss).backward()
    assert [False, True, False] in masks[1:]  # the second derivative's
    assert [True, True, False] in masks[1:]  # the loss's own, both at once
    assert w.grad is not None


def test_a_weight_that_depends_on_the_inputs_keeps_its_path():
    x, w, b = drawn(1, 2, 4, 4), drawn(3, 2, 3, 3), drawn(3)

    def read(within):
        with within:
            y = F.conv2d(x, w * x.mean(), b * x.square().mean())
        with inputs_only():
            return torch.autograd.grad(y.sin().sum(), x, create_graph=True)[0]

    torch.testing.assert_close(read(SecondDerivatives()), read(nullcontext()))


class Residual(nn.Module):
    """Convolutions, strides, batch normalisation, a skip, and a part that is computed again in backward."""

    def __init__(self, outputs=4, again=False):
        super().__init__()
        self.body = networks.residual_network(
            outputs, channels=1, stem=4, widths=(4, 6), strides=(1, 2), slope=0.0
        )
        self.again = again

    def forward(self, x):
        if self.again:
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
        return self.body(x)


METHODS = {
    "defense": lambda model, judge: GradientDefense(model, judge),
    "two-pass": lambda model, judge: GradientDefense(model, judge, simultaneous=False, mask="none"),
    "distillation": lambda model, judge: GradientDistillation(model, teacher(), judge, adversarial="minimax"),
    "sobolev": lambda model, judge: SobolevTraining(model, teacher()),
}


def teacher():
    torch.manual_seed(7)
    return Residual().double()


@pytest.mark.parametrize("again", [False, True], ids=["", "checkpoint"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_one_of_torchs_own_derivatives(name, again, monkeypatch):
    """Model's gradients, both networks' statistics and the auxiliary's new weights."""

    def after_two_steps():
        torch.manual_seed(3)
        model = Residual(again=again).double()
        judge = networks.residual_network(
            1 if name == "distillation" else 4, channels=1, stem=4, widths=(4,), strides=(1,)
        ).double()
        method = METHODS[name](model, judge)
        method.set_progress(0.4)
        for _ in range(2):
            x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
            method.backward(x, torch.randint(4, (6,)))
        return [each.grad for each in model.parameters()], method.state_dict()

    gradients, state = after_two_steps()
    for where in ("defense", "_distiller"):
        monkeypatch.setattr(f"manyloss.adversarial.{where}.SecondDerivatives", nullcontext)
    torchs_gradients, torchs_state = after_two_steps()
    torch.testing.assert_close(gradients, torchs_gradients, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state, torchs_state, rtol=1e-9, atol=1e-12)
