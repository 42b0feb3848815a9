"""Weighting x aggregator x penalties x rescale, each combination against the step written the long way."""

from itertools import product

import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.gradients import LossGradients
from manyloss.penalties import CosReg, GradientPenalty
from manyloss.weighting import MGDA, Equal, GradNorm, Static
from tests.problems import Given, Neck, Network, OneHead, assert_same, names
from tests.properties.methods import MethodCase, methods
from tests.reference.step import loss_gradients

AGGREGATORS = {"sum": lambda: None, "graddrop": lambda: GradDrop(leak=0.2, seed=3)}
PENALTIES = {
    "none": list,
    "cosreg": lambda: [CosReg(5.0)],
    "both": lambda: [CosReg(5.0), GradientPenalty(0.1)],
}


def rescaled(merged: list[Tensor], rows: list[list[Tensor]]) -> list[Tensor]:
    """To the norm of the unweighted sum, by a factor of at most 100; zero stays zero."""
    wanted = torch.cat([sum(row[k] for row in rows).reshape(-1) for k in range(len(merged))]).norm()
    norm = torch.cat([tensor.reshape(-1) for tensor in merged]).norm()
    factor = min(float(wanted / norm), 100.0) if float(norm) > 0 else 0.0
    return [tensor * factor for tensor in merged]


def long_way(
    case: MethodCase, network: Network, result, where: str, aggregator: str, penalties: str, rescale: str
) -> list[Tensor | None]:
    network.zero_grad()
    features, losses = network.forward()
    values, params = list(losses.values()), network.parameters()
    weights = [float(result.weights[name]) for name in losses]
    head_weights = weights if case.weighs_losses else [1.0] * len(values)
    total = sum(weight * loss for weight, loss in zip(head_weights, values, strict=True))
    expected = list(torch.autograd.grad(total, params, retain_graph=True, allow_unused=True))

    points = features if where == "features" else network.last_layer()
    rows = loss_gradients(values, points)
    if where == "features":
        stacked = [
            torch.stack([w * row[k] for w, row in zip(weights, rows, strict=True)])
            for k in range(len(points))
        ]
        places = [point.detach() for point in points]
    else:
        flat = [torch.cat([part.reshape(-1) for part in row]) for row in rows]
        stacked = [torch.stack([w * row for w, row in zip(weights, flat, strict=True)])]
        places = [None]
    method = AGGREGATORS[aggregator]()
    if method is None:
        merged = [tensor.sum(0) for tensor in stacked]
    else:
        merged = [method(tensor, place) for tensor, place in zip(stacked, places, strict=True)]
    if where == "shared_params":
        pieces = merged[0].split([point.numel() for point in points])
        merged = [piece.view_as(point) for piece, point in zip(pieces, points, strict=True)]
    if rescale == "sum_norm":
        merged = rescaled(merged, rows)
    if where == "features":
        inner = list(network.encoder.parameters())
        written = torch.autograd.grad(features, inner, merged, retain_graph=True, allow_unused=True)
    else:
        inner, written = points, merged
    replaced = {id(param): gradient for param, gradient in zip(inner, written, strict=True)}
    expected = [replaced.get(id(param), gradient) for param, gradient in zip(params, expected, strict=True)]

    for penalty in PENALTIES[penalties]():
        measured = network.last_layer()
        if where == "features" and not _given_both(case, penalties):
            measured = features
        parts = [
            torch.autograd.grad(loss, measured, create_graph=True, allow_unused=True, materialize_grads=True)
            for loss in values
        ]
        kind = "features" if measured is features else "shared_params"
        if kind == "features":
            tensors = tuple(torch.stack(part) for part in zip(*parts, strict=True))
        else:
            tensors = (torch.stack([torch.cat([one.reshape(-1) for one in part]) for part in parts]),)
        detached = torch.stack([value.detach() for value in values]).double()
        scalar = penalty(LossGradients(names(len(values)), detached, tensors, kind))
        own = torch.autograd.grad(scalar, params, retain_graph=True, allow_unused=True)
        expected = [
            gradient if extra is None else extra if gradient is None else gradient + extra
            for gradient, extra in zip(expected, own, strict=True)
        ]
    return expected


def _given_both(case: MethodCase, penalties: str) -> bool:
    return case.measures_at_shared_params or penalties != "none"


@pytest.mark.parametrize("where", ["features", "shared_params"])
@pytest.mark.parametrize(
    ("aggregator", "penalties", "rescale"),
    list(product(AGGREGATORS, PENALTIES, ["none", "sum_norm"])),
    ids=lambda part: part,
)
@methods(lambda case: case.family == "weighting")
def test_every_legal_combination(
    case: MethodCase, aggregator: str, penalties: str, rescale: str, where: str
) -> None:
    network, twin = Network(), Network()
    multi = MultiLoss(case.make(), AGGREGATORS[aggregator](), PENALTIES[penalties](), rescale=rescale)
    network.zero_grad()
    features, losses = network.forward()
    place = {"features": features} if where == "features" else {"shared_params": network.last_layer()}
    if _given_both(case, penalties):
        place["shared_params"] = network.last_layer()
    result = multi.backward(losses, **place)
    expected = long_way(case, twin, result, where, aggregator, penalties, rescale)
    assert_same(network.gradients(), expected)


@pytest.mark.parametrize("layout", [Neck, OneHead], ids=lambda layout: layout.__name__)
@methods(lambda case: case.reads_gradients and not case.measures_at_shared_params)
def test_the_tap_path_is_refused_where_losses_share_layers_after_the_features(
    case: MethodCase, layout: type[Network]
) -> None:
    network = layout()
    with pytest.raises(ValueError, match="one_backward"):
        case.step(case.multi(read="one_backward"), network)
    assert network.gradients() == [None] * len(network.parameters())


# ---------------------------------------------------------------- rescale


@pytest.mark.parametrize("place", ["at_features", "at_shared_params"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@methods(lambda case: case.family == "weighting" or case.name == "GradDrop")
def test_rescale_keeps_the_norm_of_the_plain_sum(case: MethodCase, dtype: torch.dtype, place: str) -> None:
    shape = (4, 3, 5) if place == "at_features" else (4, 15)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    given = Given(rows)
    plain, _ = getattr(given, place)(case.multi(4))
    merged, _ = getattr(given, place)(case.multi(4, rescale="sum_norm"))
    torch.testing.assert_close(merged.norm(), rows.sum(0).norm(), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(merged / merged.norm(), plain / plain.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", ["at_features", "at_shared_params"])
def test_rescale_is_limited_and_zero_stays_zero(place: str) -> None:
    multi = MultiLoss(weighting=MGDA(), rescale="sum_norm")
    opposite = torch.tensor([[1.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    nearly = torch.tensor([[1.0, 1e-6], [-3.0, 1e-6]], dtype=torch.float64)
    rows = {
        kind: tensor[:, None, :] if place == "at_features" else tensor
        for kind, tensor in {"opposite": opposite, "nearly": nearly}.items()
    }
    merged, _ = getattr(Given(rows["opposite"]), place)(multi)
    assert float(merged.abs().max()) <= 1e-9
    merged, _ = getattr(Given(rows["nearly"]), place)(multi)
    torch.testing.assert_close(merged.norm(), torch.tensor(1e-4, dtype=torch.float64), rtol=1e-3, atol=0.0)
    zeros, _ = getattr(Given(torch.zeros_like(rows["nearly"])), place)(multi)
    assert not bool(zeros.any())


# ---------------------------------------------------------------- what MultiLoss passes on


def test_progress_and_epochs_reach_every_method() -> None:
    class Counting(GradDrop):
        def __init__(self) -> None:
            super().__init__(seed=0)
            self.calls: list[object] = []

        def set_progress(self, fraction: float) -> None:
            self.calls.append(fraction)

        def end_epoch(self) -> None:
            self.calls.append("epoch")

    aggregator = Counting()
    multi = MultiLoss(GradNorm(), aggregator)
    multi.set_progress(0.25)
    multi.end_epoch()
    assert aggregator.calls == [0.25, "epoch"]
    assert multi.weighting.inner.fraction == 0.25


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_of_zero_to_one_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"a number in \[0, 1\]"):
        MultiLoss(weighting=GradNorm()).set_progress(fraction)


def test_a_static_weighting_and_an_aggregator_see_each_other() -> None:
    """The aggregator gets the weighted gradients: a weight of 0 takes a loss out of the purity."""
    rows = torch.tensor([[[1.0]], [[-5.0]]], dtype=torch.float64)
    multi = MultiLoss(Static([1.0, 0.0]), GradDrop(seed=0))
    for _ in range(10):
        merged, _ = Given(rows).at_features(multi)
        assert float(merged) == 1.0
    merged, _ = Given(rows).at_features(MultiLoss(Equal(), GradDrop(activation=torch.zeros_like)))
    assert float(merged) == -5.0
