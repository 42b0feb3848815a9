"""Inner products at one layer's weight, against one gradient of that weight per loss."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.flop_counter import FlopCounterMode

from manyloss import layer_norms
from manyloss.layer_norms import gramian, layer_behind, norms
from manyloss.layers import Layer, find_layers

T = 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_norms, "BLOCK", 5)


@pytest.fixture
def whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_norms, "pays", lambda layer, count: True)


def edges_of(features: Sequence[Tensor]) -> list[tuple[object, int]]:
    edges = [get_gradient_edge(tensor) for tensor in features]
    return [(edge.node, edge.output_nr) for edge in edges]


def feature_gradients(features: Sequence[Tensor]) -> list[list[Tensor]]:
    torch.manual_seed(1)
    return [[torch.randn_like(tensor) for tensor in features] for _ in range(T)]


def naive(features: Sequence[Tensor], params: Sequence[Tensor], grads: Sequence[Sequence[Tensor]]) -> Tensor:
    """The Gramian of gradients at the parameters. [T, T]"""
    rows = []
    for grad in grads:
        found = torch.autograd.grad(features, params, grad, retain_graph=True)
        rows.append(torch.cat([one.double().flatten() for one in found]))
    return torch.stack(rows) @ torch.stack(rows).T


def at_output(
    layer: Layer, features: Sequence[Tensor], grads: Sequence[Sequence[Tensor]]
) -> list[Tensor | None]:
    return [
        torch.autograd.grad(features, [layer.output], grad, retain_graph=True, allow_unused=True)[0]
        for grad in grads
    ]


def check(features: Sequence[Tensor], params: Sequence[Tensor], tolerance: float = 1e-12) -> Layer:
    layer = layer_behind(edges_of(features), params, T)
    assert layer is not None
    grads = feature_gradients(features)
    expected = naive(features, params, grads)
    there = at_output(layer, features, grads)
    size = float(expected.diagonal().max())
    torch.testing.assert_close(gramian(layer, there), expected, rtol=tolerance, atol=tolerance * size)
    torch.testing.assert_close(norms(layer, there), expected.diagonal().sqrt(), rtol=tolerance, atol=0.0)
    assert norms(layer, there).dtype == gramian(layer, there).dtype == torch.float64
    return layer


class Behind(nn.Module):
    """A layer, and all that may follow: norm, branch around it, activation, pooling, two features."""

    def __init__(self, layer: nn.Module, channels: int, dimensions: int) -> None:
        super().__init__()
        self.layer = layer
        self.norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions](channels)
        self.around = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions]
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> list[Tensor]:
        out = self.layer(x)
        y = torch.relu(self.norm(out) + 0.3 * out)
        return [y.mean(dim=tuple(range(2, 2 + self.dimensions))), out.tanh()]


CONVOLUTIONS = {
    "1d": (nn.Conv1d(4, 6, 3), (3, 4, 7)),
    "2d": (nn.Conv2d(4, 6, 3, padding=1), (3, 4, 4, 3)),
    "3d": (nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), (2, 2, 2, 3, 4)),
    "stride": (nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(2, 1)), (3, 4, 7, 8)),
    "dilation": (nn.Conv2d(4, 6, (3, 2), dilation=(2, 3), padding=1), (3, 4, 6, 7)),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), (3, 4, 4, 3)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 4, 3)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 5, 4)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (3, 4, 5, 4)),
    "1 x 1": (nn.Conv2d(4, 6, 1, stride=2), (3, 4, 5, 4)),
    "no bias": (nn.Conv2d(4, 6, 3, bias=False), (3, 4, 5, 4)),
    "one position": (nn.Conv2d(4, 6, 3), (1, 4, 3, 3)),
}


@pytest.mark.usefixtures("whatever_it_costs")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    layer, shape = CONVOLUTIONS[name]
    layer = layer.double()
    torch.manual_seed(0)
    model = Behind(layer, layer.out_channels, len(shape) - 2).double()
    model.train(name != "one position")
    features = model(torch.randn(shape, dtype=torch.float64))
    check(features, [layer.weight])
    if layer.bias is not None:
        check(features, [layer.weight, layer.bias])


@pytest.mark.usefixtures("whatever_it_costs")
def test_the_order_of_weight_and_bias_does_not_matter() -> None:
    layer = nn.Conv2d(4, 6, 3).double()
    check([layer(torch.randn(2, 4, 4, 4, dtype=torch.float64)).relu()], [layer.bias, layer.weight])


LINEAR = {
    "rows": (True, lambda: torch.randn(9, 4, dtype=torch.float64)),
    "rows without bias": (False, lambda: torch.randn(9, 4, dtype=torch.float64)),
    "sequences": (True, lambda: torch.randn(3, 4, 4, dtype=torch.float64)),
    "sequences without bias": (False, lambda: torch.randn(3, 4, 4, dtype=torch.float64)),
    "transposed sequences": (False, lambda: torch.randn(4, 3, 4, dtype=torch.float64).transpose(0, 1)),
    "one example": (True, lambda: torch.randn(4, dtype=torch.float64)),
    "inputs with a graph": (True, lambda: torch.randn(9, 4, dtype=torch.float64, requires_grad=True) * 2.0),
}


@pytest.mark.usefixtures("whatever_it_costs")
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers(name: str) -> None:
    torch.manual_seed(0)
    bias, inputs = LINEAR[name]
    layer = nn.Linear(4, 6, bias=bias).double()
    out = layer(inputs())
    features = [torch.softmax(out, -1), out.exp()]
    check(features, [layer.weight])
    if bias:
        check(features, [layer.weight, layer.bias])


@pytest.mark.usefixtures("whatever_it_costs")
def test_a_weight_multiplied_by_hand() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    check([(torch.randn(9, 4, dtype=torch.float64) @ weight).sigmoid()], [weight])


@pytest.mark.usefixtures("whatever_it_costs")
def test_features_that_are_the_layers_output() -> None:
    layer = nn.Linear(4, 6).double()
    check([layer(torch.randn(9, 4, dtype=torch.float64))], [layer.weight, layer.bias])


@pytest.mark.usefixtures("whatever_it_costs")
def test_channels_last_and_float32() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(4, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    check([layer(x).relu()], [layer.weight, layer.bias], 1e-5)


@pytest.mark.usefixtures("whatever_it_costs")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "make", [lambda b: nn.Linear(20, 30, bias=b), lambda b: nn.Conv1d(20, 30, 3, bias=b)]
)
def test_autocast_is_measured_in_float32(make: Callable[[bool], nn.Module], bias: bool) -> None:
    torch.manual_seed(0)
    layer = make(bias)
    x = torch.randn(8, 20) if isinstance(layer, nn.Linear) else torch.randn(8, 20, 5)
    params = list(layer.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        features = [layer(x).tanh()]
        found = layer_behind(edges_of(features), params, T)
        assert found is not None
        grads = feature_gradients(features)
        there = at_output(found, features, grads)
        assert {grad.dtype for grad in there if grad is not None} == {torch.bfloat16}
        measured = gramian(found, there)
    exact = make(bias)  # the same layer, on the rounded input, with the rounded gradients, in float64
    out = exact.double()(x.bfloat16().double())
    expected = naive([out], list(exact.parameters()), [[grad.double()] for grad in there if grad is not None])
    torch.testing.assert_close(measured, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


@pytest.mark.usefixtures("whatever_it_costs")
def test_losses_with_no_gradient_have_zero_rows() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 6).double()
    features = [layer(torch.randn(9, 4, dtype=torch.float64)).relu()]
    found = layer_behind(edges_of(features), [layer.weight], T)
    assert found is not None
    (own,) = at_output(found, features, feature_gradients(features)[:1])
    assert own is not None
    alone = float(naive(features, [layer.weight], feature_gradients(features)[:1]))
    there = [None, own, torch.zeros_like(own)]
    torch.testing.assert_close(norms(found, there) ** 2, torch.tensor([0.0, alone, 0.0], dtype=torch.float64))
    torch.testing.assert_close(
        gramian(found, there), torch.diag(torch.tensor([0.0, alone, 0.0], dtype=torch.float64))
    )
    assert norms(found, [own]).shape == (1,)


@pytest.mark.usefixtures("whatever_it_costs")
@pytest.mark.parametrize("left_over", [1.0, 1e-2, 1e-4, 1e-5])
def test_gradients_that_cancel_between_positions(left_over: float) -> None:
    """As near an optimum: every example still pulls, their sum hardly does."""
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)
    pairs = torch.randn(32, 40).repeat(2, 1)
    features = [layer(pairs)]
    (found,) = find_layers([features[0].grad_fn], [layer.weight])
    pull = torch.randn(T, 32, 30)
    there = [
        torch.cat([own, left_over * other - own]) for own, other in zip(pull, pull.roll(1, 0), strict=True)
    ]
    rows = torch.stack([(grad.double().T @ pairs.double()).flatten() for grad in there])
    expected = rows @ rows.T
    scale = expected.diagonal().sqrt()
    assert float(((norms(found, there) - scale) / scale).abs().max()) < 1e-4
    assert float(((gramian(found, there) - expected) / scale[:, None] / scale).abs().max()) < 1e-4


@pytest.mark.usefixtures("whatever_it_costs")
def test_a_hook_on_the_layers_output_counts() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 6).double()
    out = layer(torch.randn(9, 4, dtype=torch.float64))
    out.register_hook(lambda grad: 3.0 * grad)
    check([out.relu()], [layer.weight])


def two_convolutions() -> tuple[nn.Module, list[Tensor]]:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1))
    return model, [model(torch.randn(3, 2, 4))]


def not_one_layer() -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Features, and parameters that no single layer has for itself."""
    x = torch.randn(3, 2, 4)
    transposed, plain = nn.ConvTranspose1d(2, 2, 2), nn.Conv1d(2, 2, 1)
    twice = nn.Conv1d(2, 2, 1)
    both = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    tied = nn.Linear(4, 4)
    batch_norm, words, lstm = nn.BatchNorm1d(2), nn.Embedding(5, 4), nn.LSTM(4, 3)
    scaled = torch.randn(4, 4, requires_grad=True)
    left = torch.randn(5, 3, requires_grad=True)
    elsewhere = nn.Linear(4, 4)
    biased = torch.randn(3, 4, requires_grad=True)
    flat = torch.randn(3, 4)
    return {
        "transposed convolution": ([transposed(x)], [transposed.weight]),
        "only the bias": ([plain(x)], [plain.bias]),
        "used twice": ([twice(twice(x))], [twice.weight]),
        "used in two features": ([twice(x), twice(2 * x)], [twice.weight, twice.bias]),
        "two layers": ([both(x)], [both[0].weight, both[1].weight]),
        "a weight and another's bias": ([both(x)], [both[0].weight, both[1].bias]),
        "more than a layer has": ([both(x)], list(both.parameters())[:3]),
        "computed": ([normed(flat)], [normed.parametrizations.weight.original1]),
        "also used in another way": ([tied(flat) @ tied.weight.T], [tied.weight]),
        "also penalised": ([tied(flat), tied.weight.square().sum()], [tied.weight]),
        "batch norm": ([batch_norm(x)], [batch_norm.weight, batch_norm.bias]),
        "embedding": ([words(torch.tensor([1, 2]))], [words.weight]),
        "recurrent": ([lstm(torch.randn(2, 3, 4))[0]], [lstm.weight_ih_l0]),
        "on the left": ([left @ flat], [left]),
        "not behind the features": ([plain(x)], [elsewhere.weight]),
        "a factor in it": ([torch.addmm(biased, flat, scaled, alpha=2)], [scaled]),
        "a bias per row": ([torch.addmm(biased, flat, scaled)], [scaled, biased]),
        "complex": ([(flat.cfloat() @ scaled.cfloat()).abs()], [scaled]),
    }


@pytest.mark.usefixtures("whatever_it_costs")
@pytest.mark.parametrize("name", not_one_layer())
def test_anything_else_is_left_to_the_ordinary_way(name: str) -> None:
    features, params = not_one_layer()[name]
    assert layer_behind(edges_of(features), params, T) is None


@pytest.mark.usefixtures("whatever_it_costs")
def test_a_graph_that_was_freed_is_left_to_the_ordinary_way() -> None:
    layer = nn.Linear(4, 4)
    out = layer(torch.randn(3, 4)).relu()
    out.sum().backward()
    assert layer_behind(edges_of([out]), [layer.weight], T) is None


def test_it_is_chosen_where_it_takes_fewer_operations() -> None:
    def operations(run: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    chosen = set()
    for batch, count in [
        (1, 1),
        (1, 2),
        (2, 2),
        (2, 6),
        (4, 6),
        (6, 6),
        (10, 6),
        (16, 6),
        (16, 40),
        (40, 40),
    ]:
        layer = nn.Conv2d(8, 16, 3, bias=False)
        features = [layer(torch.randn(batch, 8, 4, 4))]
        (edge,) = edges_of(features)
        (made,) = find_layers([features[0].grad_fn], [layer.weight])  # whether it pays or not
        gradients = [torch.randn_like(features[0]) for _ in range(count)]
        here = operations(lambda made=made, gradients=gradients: norms(made, gradients))
        there = operations(
            lambda layer=layer, features=features, gradients=gradients: [
                torch.autograd.grad(features, [layer.weight], [g], retain_graph=True) for g in gradients
            ]
        )
        pays = layer_behind([edge], [layer.weight], count) is not None
        chosen.add(pays)
        if not 0.8 < here / there < 1.25:
            assert pays == (here < there), (batch, count, here / there)
    assert chosen == {False, True}


def test_a_kernel_that_would_not_fit_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(300, 300)
    features = [layer(torch.randn(20, 300))]
    assert layer_behind(edges_of(features), [layer.weight], 40) is not None
    monkeypatch.setattr(layer_norms, "LARGEST", 20 * 20 - 1)
    assert layer_behind(edges_of(features), [layer.weight], 40) is None


def test_the_output_is_an_edge_that_autograd_takes() -> None:
    layer = nn.Linear(300, 300)
    found = layer_behind(edges_of([layer(torch.randn(4, 300)).relu()]), [layer.weight], 40)
    assert found is not None
    assert isinstance(found.output, GradientEdge)
