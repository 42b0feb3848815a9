"""Learning-rate annealing against Algorithm 1 on vectors, and on a small PINN."""

import numpy as np
import pytest
import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.plan import Needs
from manyloss.weighting import LearningRateAnnealing
from tests.problems import Given
from tests.reference.by_norms import Annealing
from tests.weighting.rows import rows_of, step_of


@pytest.mark.parametrize("rate", [0.1, 0.9])
@pytest.mark.parametrize("residual", [0, 2])
def test_steps_follow_the_oracle(residual: int, rate: float) -> None:
    method, oracle = LearningRateAnnealing(str(residual), rate), Annealing(3, residual, rate)
    for step in range(10):
        rows = rows_of("lengths", 3, step)
        np.testing.assert_allclose(step_of(method, rows), oracle.merge(rows), rtol=1e-10)


def test_with_a_residual_by_name_the_order_of_the_losses_does_not_matter() -> None:
    rows = rows_of("lengths", 3, 0)
    first, other = LearningRateAnnealing("0"), LearningRateAnnealing("2")
    np.testing.assert_allclose(step_of(first, rows), step_of(other, rows[[1, 2, 0]]), rtol=1e-12)


def test_all_of_a_model_is_shared_and_the_largest_entry_counts_over_all_parameters() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None].requires_grad_()
    u = net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    losses = {"equation": (slope + u).square().mean(), "start": (u[0] - 1.0).square().sum()}
    parameters = list(net.parameters())
    rows = []
    for loss in losses.values():
        grads = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    result = MultiLoss(LearningRateAnnealing("equation", rate=1.0)).backward(losses, shared_params=net)
    wanted = float(rows[0].abs().max() / rows[1].abs().mean())
    assert float(result.weights["equation"]) == 1.0
    assert float(result.weights["start"]) == pytest.approx(wanted, rel=1e-9)
    merged = torch.cat([each.grad.flatten() for each in parameters])
    torch.testing.assert_close(merged, rows[0] + wanted * rows[1])


def test_a_zero_gradient_keeps_its_weight() -> None:
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    merged, result = Given(rows).at_shared_params(MultiLoss(LearningRateAnnealing(rate=1.0)))
    assert [float(weight) for weight in result.weights.values()] == [1.0, 1.0, 8.0]
    assert bool(torch.isfinite(merged).all())


def test_a_residual_that_is_no_loss_is_named() -> None:
    with pytest.raises(ValueError, match="residual of LearningRateAnnealing must be one of 'loss_0'"):
        Given(torch.eye(2)).at_shared_params(MultiLoss(LearningRateAnnealing("pde")))


def test_entries_of_a_layer_behind_the_features_are_formed() -> None:
    """A step forms norms of one layer without its gradients, unless a method says that it reads them."""
    torch.manual_seed(0)
    encoder, heads = nn.Linear(100, 80).double(), [nn.Linear(80, 1).double() for _ in "abc"]
    inputs = torch.randn(2, 100, dtype=torch.float64)

    def forward() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = encoder(inputs)
        losses = [(head(features) - 1.0).square().mean() for head in heads]
        return features, dict(zip("abc", losses, strict=True))

    _, losses = forward()
    rows = [torch.autograd.grad(loss, encoder.weight, retain_graph=True)[0] for loss in losses.values()]
    features, losses = forward()
    place = {"features": features, "shared_params": [encoder.weight]}
    result = MultiLoss(LearningRateAnnealing(rate=1.0)).backward(losses, **place)
    for name, row in list(zip(losses, rows, strict=True))[1:]:
        assert float(result.weights[name]) == pytest.approx(float(rows[0].abs().max() / row.abs().mean()))

    class Undeclared(LearningRateAnnealing):
        needs = Needs(norms=True, replaces=True)

    place["features"], losses = forward()
    with pytest.raises(RuntimeError, match=r"says so, with needs = Needs\(gradients=True"):
        MultiLoss(Undeclared()).backward(losses, **place)
