"""What torch differentiates once only is refused by name, before the read or after it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from manyloss.errors import NoDoubleBackwardError
from manyloss.graph import between, edge_of, refuse_double_backward, refuse_missing_derivatives


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def differentiated_twice(function, x):
    """The way a penalty goes: refuse, read, refuse, and then the second derivative of the squared norm."""
    x = x.clone().requires_grad_()
    loss = function(x).sum()
    refuse_double_backward(between([edge_of(loss)], [edge_of(x)]), "CosReg", "loss 'a'")
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    refuse_missing_derivatives([gradient], "CosReg", "loss 'a'")
    return torch.autograd.grad(gradient.square().sum(), x)[0]


def attention(x):
    return F.scaled_dot_product_attention(x, x, x)


def ctc(x):
    targets = torch.tensor([[1, 2], [3, 1]])
    return F.ctc_loss(x.log_softmax(2), targets, torch.tensor([5, 5]), torch.tensor([2, 2]))


def compiled(x):
    return torch.compile(torch.sin, backend="aot_eager")(x)


REFUSED_BEFORE = {
    "attention": (attention, (2, 2, 4, 8), r"ScaledDotProduct\w+ does not have: run .*SDPBackend.MATH"),
    "compiled": (compiled, (3,), r"CompiledFunctionBackward does not have: .*uncompiled"),
    "reentrant": (lambda x: checkpoint(torch.sin, x, use_reentrant=True), (3,), r"use_reentrant=False"),
    "cdist": (lambda x: torch.cdist(x, x[1:]).square(), (3, 2), r"CdistBackward0 .*norm\(dim=-1\)"),
    "pdist": (lambda x: F.pdist(x).square(), (3, 2), r"PdistBackward0 .*norm\(dim=-1\)"),
    "once, linear after": (Squared.apply, (3,), r"SquaredBackward .*@once_differentiable"),
    "once": (lambda x: Squared.apply(x).square(), (3,), r"SquaredBackward .*@once_differentiable"),
}
REFUSED_AFTER = {
    "ctc": (ctc, (5, 2, 4), r"none for a part of it \(near CtcLossBackward0\): write"),
    "margin": (
        lambda x: F.multi_margin_loss(x, torch.tensor([1, 0])),
        (2, 3),
        r"none for a part of it: write",
    ),
}


@pytest.mark.parametrize("name", REFUSED_BEFORE | REFUSED_AFTER)
def test_refused_with_the_way_out(name):
    function, shape, words = (REFUSED_BEFORE | REFUSED_AFTER)[name]
    with pytest.raises(
        NoDoubleBackwardError, match=rf"^CosReg needs a double backward of loss 'a', .*{words}"
    ):
        differentiated_twice(function, torch.randn(shape))
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["ctc", "margin"])
def test_torch_says_it_only_in_the_graph_of_the_gradient(name):
    function, shape, _ = REFUSED_AFTER[name]
    x = torch.randn(shape, requires_grad=True)
    loss = function(x)
    refuse_double_backward(between([edge_of(loss)], [edge_of(x)]), "CosReg", "loss 'a'")  # passes


def test_an_embedding_bag_is_refused_at_its_weight():
    bag = nn.EmbeddingBag(4, 3)
    loss = bag(torch.tensor([[0, 1], [2, 1]])).square().sum()
    with pytest.raises(NoDoubleBackwardError, match=r"EmbeddingBagBackward0 .*torch.nn.Embedding"):
        refuse_double_backward(between([edge_of(loss)], [edge_of(bag.weight)]), "CosReg", "loss 'a'")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN is only on GPUs")
def test_a_cudnn_rnn_is_refused_and_its_way_out_leads_out():
    lstm, x = nn.LSTM(4, 3).cuda(), torch.randn(5, 2, 4, device="cuda")
    with pytest.raises(NoDoubleBackwardError, match=r"CudnnRnnBackward0 .*cudnn.flags\(enabled=False\)"):
        differentiated_twice(lambda x: lstm(x)[0], x)
    with torch.backends.cudnn.flags(enabled=False):
        assert differentiated_twice(lambda x: lstm(x)[0], x).isfinite().all()


def distances(x):
    return (x[:1, None] - x[None, 1:]).norm(dim=-1).square()


def attention_in_the_open(x):
    with sdpa_kernel(SDPBackend.MATH):
        return attention(x)


ALLOWED = {
    "distances": (distances, (3, 2)),
    "attention": (attention_in_the_open, (2, 2, 4, 8)),
    "checkpoint": (lambda x: checkpoint(torch.sin, x, use_reentrant=False), (3,)),
    "lstm": (lambda x: nn.LSTM(4, 3)(x)[0], (5, 2, 4)),
    "batch norm": (lambda x: nn.BatchNorm1d(3)(x).sin(), (4, 3)),
    "embedding": (lambda x: F.embedding(torch.tensor([[0, 1], [2, 1]]), x).mean(1).sin(), (4, 3)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_the_ways_out_lead_out(name):
    function, shape = ALLOWED[name]
    torch.manual_seed(0)
    assert differentiated_twice(function, torch.randn(shape)).isfinite().all()


def test_what_does_not_lead_to_the_place_is_not_asked():
    x, other = torch.randn(3, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    loss = x.sin().sum() + F.pdist(other).sum()
    refuse_double_backward(between([edge_of(loss)], [edge_of(x)]), "CosReg", "loss 'a'")
