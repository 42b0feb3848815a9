"""Rows of which some layers are read at their outputs, against rows of all parameters."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyloss import MultiLoss, layer_norms
from manyloss.aggregation import GradDrop
from manyloss.layer_norms import layers_to_read
from manyloss.layered_rows import LayeredRows
from manyloss.rows import Rows
from manyloss.weighting import MGDA, PCGrad

T = 3


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_norms, "LARGE", 1)
    torch.manual_seed(0)


class Model(nn.Module):
    """Convolutions of one, two and three dimensions, linear layers, and a weight by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(2, 8, (1, 2, 2))
        self.image = nn.Conv2d(8, 24, 3, stride=2, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.line = nn.Conv1d(24, 30, 2, dilation=2)
        self.linear = nn.Linear(30, 40)
        self.square = nn.Parameter(torch.randn(40, 40))
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.volume(x).tanh().squeeze(2)
        x = self.norm(self.image(x)).relu()
        x = self.line(x.flatten(2)).tanh().mean(2)
        return (self.linear(x).sigmoid() @ self.square).tanh()


def losses_of(model: nn.Module) -> list[Tensor]:
    features = model(torch.randn(2, 2, 1, 5, 5, dtype=torch.float64))
    parts = torch.randn(T, 40, dtype=torch.float64)
    return [(features * part).square().sum() for part in parts[:-1]] + [features[:1].exp().mean()]


def both(model: nn.Module) -> tuple[LayeredRows, Rows]:
    losses, params = losses_of(model), list(model.parameters())
    layers = layers_to_read([loss.grad_fn for loss in losses], params, T)
    assert len(layers) == 4
    layered, rows = LayeredRows(params, layers), Rows(params)
    for loss in losses:
        layered.add(torch.autograd.grad(loss, layered.places, retain_graph=True, allow_unused=True))
        rows.add(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True))
    layered.add([None] * len(layered.places))  # a loss that reaches nothing
    rows.add([None] * len(params))
    return layered, rows


def same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", [[0.5, -2.0, 3.0, 1.0], [1e-40, 2e-40, 3e-40, 0.0]])
def test_they_are_the_rows_of_all_parameters(weights: list[float]) -> None:
    layered, rows = both(Model().double())
    torch.testing.assert_close(layered.gramian(), rows.gramian(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layered.matrix(), rows.matrix(), rtol=1e-12, atol=1e-12)
    w = torch.tensor(weights, dtype=torch.float64)
    found, expected = layered.combine(w), rows.combine(w)
    same(*[[None if g is None else g / w.max() for g in one] for one in (found, expected)])


def test_a_function_of_columns_sees_the_parameters() -> None:
    layered, rows = both(Model().double())
    same(layered.merge(lambda block: block.amax(0)), rows.merge(lambda block: block.amax(0)))


def test_they_tell_which_loss_is_not_finite() -> None:
    layered, _ = both(Model().double())
    assert layered.finite() == [True] * 4
    bad = [torch.full_like(column[0], float("nan")) for column in layered._outputs]
    layered.add([*[None] * len(layered._rest), *bad])
    assert layered.finite() == [True] * 4 + [False]


@pytest.mark.parametrize("method", [MGDA, lambda: PCGrad(seed=0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_the_same_either_way(method, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for large in (1, 1 << 60):
        monkeypatch.setattr(layer_norms, "LARGE", large)
        torch.manual_seed(1)
        model = Model().to(dtype)
        features = model(torch.randn(2, 2, 1, 5, 5, dtype=dtype))
        heads = [nn.Linear(40, 1).to(dtype) for _ in range(T)]
        losses = {str(i): head(features).square().mean() for i, head in enumerate(heads)}
        result = MultiLoss(method()).backward(losses, shared_params=model.parameters())
        assert result.path == "direct"
        grads = [param.grad for param in model.parameters()]
        written.append([None if grad is None else grad.double() for grad in grads] + [result.gramian])
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for one, other in zip(*written, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_a_method_that_asks_for_the_gradients_reads_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayeredRows, "_whole", None)
    model = Model()
    features = model(torch.randn(2, 2, 1, 5, 5))
    losses = {"a": features.sum(), "b": features.square().sum()}
    MultiLoss(aggregator=GradDrop(seed=0)).backward(losses, shared_params=model.parameters())
    assert model.linear.weight.grad is not None


def test_what_a_checkpoint_recomputes_is_not_looked_at() -> None:
    layer, calls = nn.Linear(30, 40), []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return layer(x.tanh())

    out = checkpoint(counted, torch.randn(2, 30, requires_grad=True), use_reentrant=False)
    assert layers_to_read([out.sum().grad_fn], [layer.weight], 10) == []
    assert len(calls) == 1
    assert len(layers_to_read([layer(torch.randn(2, 30)).sum().grad_fn], [layer.weight], 10)) == 1
