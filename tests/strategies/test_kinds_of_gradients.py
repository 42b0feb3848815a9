"""Complex and sparse gradients, tied parameters, and features in other shapes than a list."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.penalties import CosReg, GradientPenalty
from manyloss.weighting import MGDA, CAGrad, GradNorm, PCGrad

WEIGHTINGS = [MGDA, lambda: PCGrad(seed=0), CAGrad, GradNorm]


def spectral() -> tuple[nn.Parameter, Tensor]:
    """A filter in Fourier space, and the features it gives."""
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(5, dtype=torch.complex128))
    return filters, torch.fft.fft(torch.randn(4, 5, dtype=torch.float64)) * filters


def complex_losses(z: Tensor) -> dict[str, Tensor]:
    return {
        "a": (z - 1.0).abs().square().mean(),
        "b": (z.imag + 0.3).square().mean(),
        "c": (z * z).real.exp().mean(),
    }


@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize("at", ["features", "shared_params", "both"])
@pytest.mark.parametrize("make", WEIGHTINGS)
def test_complex_gradients_have_real_inner_products(make: Any, at: str, read: str) -> None:
    """Re<a, b>: turning C into pairs of real numbers changes nothing."""
    filters, z = spectral()
    losses = complex_losses(z)
    points = [z] if at == "features" else [filters]
    rows = [torch.autograd.grad(loss, points, retain_graph=True)[0].flatten() for loss in losses.values()]
    merged_rows = [torch.autograd.grad(loss, filters, retain_graph=True)[0] for loss in losses.values()]
    gramian = torch.stack([torch.stack([(a.conj() * b).sum().real for b in rows]) for a in rows])
    place: dict[str, Any] = {"features": z} if at != "shared_params" else {}
    place |= {"shared_params": filters} if at != "features" else {}
    result = MultiLoss(make(), read=read).backward(losses, **place, measure=True)
    torch.testing.assert_close(result.gramian, gramian)
    wanted = sum(float(w) * row for w, row in zip(result.weights.values(), merged_rows, strict=True))
    torch.testing.assert_close(filters.grad, wanted)


@pytest.mark.parametrize("at", ["features", "shared_params"])
def test_complex_entries_are_two_real_ones(at: str) -> None:
    """GradDrop and the penalties see the same step on the real and imaginary parts by hand."""

    def step(as_pairs: bool, **methods: Any) -> Tensor:
        torch.manual_seed(1)
        start = torch.randn(6, 2, dtype=torch.float64)
        leaf = nn.Parameter(start if as_pairs else torch.view_as_complex(start))
        z = leaf * 1.0
        place = z if at == "features" else leaf
        losses = complex_losses(torch.view_as_complex(place) if as_pairs else place)
        MultiLoss(**methods).backward(losses, **{at: place})
        return leaf.grad if as_pairs else torch.view_as_real(leaf.grad)

    for make in (
        lambda: {"aggregator": GradDrop(sum_over_batch=False, seed=0)},
        lambda: {"penalties": [CosReg(0.5)]},
        lambda: {"penalties": [GradientPenalty(0.1)]},
        lambda: {"weighting": MGDA(), "rescale": "sum_norm"},
    ):
        torch.testing.assert_close(step(False, **make()), step(True, **make()))


@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize(
    "make",
    [*[lambda m=m: {"weighting": m()} for m in WEIGHTINGS], lambda: {"aggregator": GradDrop(seed=0)}],
)
def test_sparse_embedding_gradients(make: Any, read: str) -> None:
    """As dense ones, and `.grad` stays sparse, as SparseAdam needs it."""

    def step(sparse: bool) -> tuple[Tensor, Tensor, nn.Embedding]:
        torch.manual_seed(0)
        table = nn.Embedding(20, 4, sparse=sparse).double()
        heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(2)).double()
        z = table(torch.tensor([1, 4, 3, 3]))
        losses = {"a": (heads[0](z) - 1).square().mean(), "b": (heads[1](z[:2]) + 1).square().mean()}
        result = MultiLoss(**make(), read=read).backward(losses, shared_params=table, measure=True)
        return table.weight.grad, result.gramian, table

    sparse, gramian, table = step(True)
    dense, expected, _ = step(False)
    assert sparse.is_sparse
    torch.testing.assert_close(sparse.to_dense(), dense)
    torch.testing.assert_close(gramian, expected)
    torch.optim.SparseAdam(table.parameters(), lr=0.01).step()


def test_tied_parameters_count_once() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4).double()
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(2)).double()
    x = torch.randn(6, 4, dtype=torch.float64)

    def norms(shared: list[Tensor], times: int) -> list[float]:
        z = layer(x)
        losses = {str(i): head(z).square().mean() for i, head in enumerate(heads)}
        result = MultiLoss(GradNorm()).backward(losses, features=[z] * times, shared_params=shared)
        return [float(norm) for norm in result.norms.values()]

    assert norms([layer.weight, layer.weight], 1) == norms([layer.weight], 2)


@pytest.mark.parametrize("used", ["both", "first"])
@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize("make", [MGDA, lambda: PCGrad(seed=0)])
def test_an_output_of_a_split_that_no_one_uses(make: Any, read: str, used: str) -> None:
    """`mu, logvar = h.chunk(2, 1)`, of which the losses use one."""
    torch.manual_seed(0)
    encoder, heads = nn.Linear(3, 8).double(), nn.ModuleList(nn.Linear(4, 1) for _ in range(2)).double()
    mu, logvar = encoder(torch.randn(5, 3, dtype=torch.float64)).chunk(2, 1)
    losses = {str(i): (head(mu) - i).square().mean() for i, head in enumerate(heads)}
    rows = [torch.autograd.grad(loss, encoder.weight, retain_graph=True)[0] for loss in losses.values()]
    features = [mu, logvar] if used == "both" else mu
    result = MultiLoss(make(), read=read).backward(losses, features=features)
    wanted = sum(float(w) * row for w, row in zip(result.weights.values(), rows, strict=True))
    torch.testing.assert_close(encoder.weight.grad, wanted)


def test_a_mapping_of_features_and_a_packed_sequence() -> None:
    torch.manual_seed(0)
    rnn, heads = nn.GRU(3, 4).double(), nn.ModuleList(nn.Linear(4, 1) for _ in range(2)).double()
    packed = pack_padded_sequence(torch.randn(5, 2, 3, dtype=torch.float64), torch.tensor([5, 3]))
    outputs, _ = rnn(packed)

    def losses(padded: Tensor) -> dict[str, Tensor]:
        return {str(i): (head(padded) - i).square().mean() for i, head in enumerate(heads)}

    found = losses(pad_packed_sequence(outputs)[0])
    by_hand = MultiLoss(MGDA()).backward(found, features=outputs.data, retain_graph=True).weights
    assert MultiLoss(MGDA()).backward(found, features=outputs, retain_graph=True).weights == by_hand
    assert MultiLoss(MGDA()).backward(found, features={"rnn": outputs.data}).weights == by_hand


def test_a_nested_tensor_is_refused_with_a_way_out() -> None:
    parts = [torch.randn(2, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)]
    nested = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
    loss = nested.values().square().sum()
    with pytest.raises(TypeError, match=r"item 0\) is a nested tensor: pass the dense tensor"):
        MultiLoss(MGDA()).backward([loss, 2 * loss], features=nested)
