import pytest
import torch

from manyloss.adversarial import GradientReversal


def test_value_is_unchanged_and_gradient_reversed():
    x = torch.randn(5, 3, requires_grad=True)
    y = GradientReversal(0.5)(x)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad((y**2).sum(), x)
    torch.testing.assert_close(gradient, -0.5 * 2 * x)


def test_it_can_be_differentiated_twice():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((GradientReversal(2.0)(x) ** 3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first, -2 * 3 * x**2)
    torch.testing.assert_close(second, (-2) ** 2 * 6 * x)  # the way back passes the reversal a second time


@pytest.mark.parametrize("alpha", ["0.5", None, float("nan")])
def test_alpha_is_a_finite_number(alpha):
    with pytest.raises((TypeError, ValueError), match="alpha must be a "):
        GradientReversal(alpha)


def test_works_under_vmap():
    x = torch.randn(3, 2)
    gradients = torch.func.vmap(torch.func.grad(lambda row: GradientReversal(1.0)(row).sum()))(x)
    torch.testing.assert_close(gradients, -torch.ones(3, 2))
