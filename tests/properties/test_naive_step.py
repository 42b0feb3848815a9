"""Every strategy == the step written the long way, for every method and layout."""

import pytest
import torch
from torch import Tensor, nn

from manyloss.gradients import LossGradients
from tests.problems import LAYOUTS, Neck, Network, OneHead, Pyramid, Separated, assert_same
from tests.properties.methods import MethodCase, every_method, methods
from tests.reference.step import loss_gradients, weighted

SHARED_AFTER_FEATURES = (Neck, OneHead)  # one backward cannot tell the losses apart there
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


def naive_step(
    case: MethodCase, network: Network, result, step: int, where: str, fresh: nn.Module
) -> list[Tensor | None]:
    """What the step has to write: with the result's weights, or `fresh` merging gradients read here."""
    network.zero_grad()
    features, losses = network.forward(step)
    place = case.place(network, features, where)
    params = network.parameters()
    values = list(losses.values())
    weights = [1.0] * len(values)
    if case.family == "weighting":
        weights = [float(result.weights[name]) for name in losses]
    if case.family == "penalties":
        objective = sum(values) + naive_penalty(fresh, losses, place, features)
        return list(torch.autograd.grad(objective, params, allow_unused=True))
    if case.weighs_losses:
        objective = sum(weight * loss for weight, loss in zip(weights, values, strict=True))
        return list(torch.autograd.grad(objective, params, allow_unused=True))

    expected = list(torch.autograd.grad(sum(values), params, retain_graph=True, allow_unused=True))
    points = features if "features" in place else place["shared_params"]
    rows = loss_gradients(values, points)
    if case.family == "weighting":
        merged = weighted(rows, weights)
    elif "features" in place:
        stacked = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        if fresh.names is None:
            fresh.start(list(losses))
        merged = fresh.aggregate(stacked, [point.detach() for point in points], list(losses))
        fresh.commit()
    else:
        flat = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
        pieces = fresh(flat, None).split([point.numel() for point in points])
        merged = [piece.view_as(point) for piece, point in zip(pieces, points, strict=True)]
    if "features" in place:
        points = list(network.encoder.parameters())
        merged = torch.autograd.grad(features, points, grad_outputs=merged, allow_unused=True)
    written = {id(point): gradient for point, gradient in zip(points, merged, strict=True)}
    return [written.get(id(param), gradient) for param, gradient in zip(params, expected, strict=True)]


def naive_penalty(fresh: nn.Module, losses: dict[str, Tensor], place: dict, features: list[Tensor]) -> Tensor:
    points = place.get("shared_params", features)
    rows = [
        torch.autograd.grad(loss, points, create_graph=True, allow_unused=True, materialize_grads=True)
        for loss in losses.values()
    ]
    if "shared_params" in place:
        gradients = (torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows]),)
    else:
        gradients = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
    values = torch.stack([loss.detach() for loss in losses.values()]).double()
    kind = "shared_params" if "shared_params" in place else "features"
    return fresh(LossGradients(tuple(losses), values, gradients, kind))


def assert_three_steps(case: MethodCase, layout: type[Network], where: str, **keywords: object) -> None:
    network, twin = layout(), layout()
    if case.weighs_gradients and layout is Separated and where != "shared_params":
        keywords = {"measure_at": "virtual_layer", **keywords}  # at the features it is refused
    multi, fresh = case.multi(**keywords), case.make()
    for step in range(3):
        actual, result = case.step(multi, network, step, where)
        assert_same(actual, naive_step(case, twin, result, step, where, fresh))


@every_layout
@every_method
def test_step(case: MethodCase, layout: type[Network]) -> None:
    assert_three_steps(case, layout, "usual")


@every_layout
@methods(lambda case: not case.measures_at_shared_params)
def test_read_per_loss(case: MethodCase, layout: type[Network]) -> None:
    assert_three_steps(case, layout, "usual", read="per_loss")


@pytest.mark.parametrize(
    "layout",
    [layout for layout in LAYOUTS if layout not in SHARED_AFTER_FEATURES],
    ids=lambda layout: layout.__name__,
)
@methods(lambda case: not case.measures_at_shared_params)
def test_read_in_one_backward(case: MethodCase, layout: type[Network]) -> None:
    assert_three_steps(case, layout, "usual", read="one_backward")


@every_layout
@every_method
def test_step_at_shared_params(case: MethodCase, layout: type[Network]) -> None:
    assert_three_steps(case, layout, "shared_params")


@pytest.mark.parametrize("layout", [Network, Separated, Pyramid], ids=lambda layout: layout.__name__)
@methods(lambda case: case.measures_at_shared_params)
def test_measured_at_features(case: MethodCase, layout: type[Network]) -> None:
    assert_three_steps(case, layout, "features")


@every_layout
@methods(lambda case: case.family == "weighting")
def test_reported_statistics_are_the_measured_gradients(case: MethodCase, layout: type[Network]) -> None:
    """What the result reports equals one autograd.grad per loss; what was not measured is None."""
    network, twin = layout(), layout()
    virtual = case.weighs_gradients and layout is Separated  # at the features it is refused
    multi = case.multi(measure_at="virtual_layer" if virtual else "auto")
    _, result = case.step(multi, network)
    features, losses = twin.forward()
    for name, loss in losses.items():
        torch.testing.assert_close(result.losses[name].double(), loss.detach().double())
        assert not result.losses[name].requires_grad
    place = case.place(twin, features)
    points = place.get("shared_params", features)
    rows = loss_gradients(list(losses.values()), points)
    if virtual:  # eq. 3 of the GradDrop paper: sum_b sgn(A) o grad_A
        rows = [
            [(part * point.sign()).sum(0) for part, point in zip(row, points, strict=True)] for row in rows
        ]
    vectors = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    if result.norms is not None:
        measured = torch.stack([result.norms[name].double() for name in losses])
        torch.testing.assert_close(measured, vectors.norm(dim=1))
    if result.gramian is not None:
        torch.testing.assert_close(result.gramian.double(), vectors @ vectors.T, rtol=1e-7, atol=1e-12)
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        torch.testing.assert_close(result.cosines.double(), unit @ unit.T, rtol=1e-7, atol=1e-9)


@methods(lambda case: case.name in {"Equal", "Sum"})
def test_nothing_is_measured_that_no_one_asked_for(case: MethodCase) -> None:
    _, result = case.step(case.multi(), case.network())
    assert result.norms is None
    assert result.gramian is None
    assert result.cosines is None
