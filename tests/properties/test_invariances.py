"""One loss, permuted losses, scaled gradients, degenerate gradients, and from 1 to 200 losses."""

import numpy as np
import pytest
import torch

from manyloss.errors import BatchSeparatedError
from tests.problems import Given, Network, Pyramid, Separated, assert_same, names
from tests.properties.methods import (
    DRAWS_ONCE_BY_LOSS,
    NOT_PLAIN_FOR_ONE_LOSS,
    RANDOM_BY_LOSS,
    TAKES_THE_FIRST,
    MethodCase,
    every_method,
    methods,
)

PLACES = ["usual", "features", "shared_params"]


def plain(network: Network, step: int = 0) -> list:
    network.zero_grad()
    _, losses = network.forward(step)
    sum(losses.values()).backward()
    return network.gradients()


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("layout", [Network, Pyramid], ids=lambda layout: layout.__name__)
@methods(lambda case: case.name not in NOT_PLAIN_FOR_ONE_LOSS)
def test_one_loss_is_a_plain_backward(case: MethodCase, layout: type[Network], where: str) -> None:
    network, twin = layout(1), layout(1)
    multi = case.multi(1)
    for step in range(3):
        actual, _ = case.step(multi, network, step, where)
        assert_same(actual, plain(twin, step), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("where", PLACES)
@methods(lambda case: case.name not in RANDOM_BY_LOSS | DRAWS_ONCE_BY_LOSS | TAKES_THE_FIRST)
def test_permuted_losses_give_the_same_step(case: MethodCase, where: str) -> None:
    network, twin = Network(4), Network(4)
    multi, permuted = case.multi(4), case.multi(4)
    for step in range(4):
        actual, result = case.step(multi, network, step, where)
        twin.zero_grad()
        features, losses = twin.forward(step)
        shuffled = {name: losses[name] for name in [names(4)[i] for i in (2, 0, 3, 1)]}
        other = permuted.backward(shuffled, **case.place(twin, features, where))
        assert_same(actual, twin.gradients(), rtol=1e-6, atol=1e-10)
        if case.family == "weighting":
            for name in losses:
                torch.testing.assert_close(result.weights[name], other.weights[name], rtol=1e-6, atol=1e-9)


@methods(lambda case: case.name in RANDOM_BY_LOSS)
def test_permuted_losses_give_the_same_distribution(case: MethodCase) -> None:
    """Mean weights over many draws agree within five standard errors."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [-0.5, -1.0]], dtype=torch.float64)
    order = [2, 0, 1]
    draws = {"as given": [], "permuted": []}
    for key, given in {"as given": Given(rows), "permuted": Given(rows[order])}.items():
        multi = case.multi(3, seed=11 if key == "as given" else 12)
        for _ in range(400):
            _, result = given.at_features(multi)
            weights = [float(result.weights[name]) for name in names(3)]
            draws[key].append(weights if key == "as given" else [weights[order.index(i)] for i in range(3)])
    first, second = np.array(draws["as given"]), np.array(draws["permuted"])
    error = np.sqrt(first.var(axis=0) / 400 + second.var(axis=0) / 400)
    assert np.all(np.abs(first.mean(axis=0) - second.mean(axis=0)) <= 5 * error + 1e-12)


@pytest.mark.parametrize("place", ["at_features", "at_shared_params"])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@methods(lambda case: case.scales_with_gradients)
def test_scaled_gradients_scale_the_result(
    case: MethodCase, dtype: torch.dtype, scale: float, place: str
) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = (5, 4, 6) if place == "at_features" else (5, 24)
    rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
    rows = (rows * torch.tensor([1.0, 0.1, 3.0, 1.0, 0.5]).view(5, *[1] * (rows.dim() - 1))).to(dtype)
    point = torch.randn(rows.shape[1:], generator=generator, dtype=torch.float64)
    base, _ = getattr(Given(rows, point), place)(case.multi(5))
    scaled, _ = getattr(Given(rows * scale, point), place)(case.multi(5))
    tolerance = 2e-5 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(
        scaled.double() / scale, base.double(), rtol=tolerance, atol=tolerance * float(base.abs().max())
    )


DEGENERATE = {
    "a zero row": [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 1.0]],
    "all zero": [[0.0, 0.0, 0.0]] * 3,
    "repeated rows": [[1.0, -2.0, 0.5]] * 3,
    "opposite rows": [[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5], [1.0, -2.0, 0.5]],
    "rank one": [[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0], [0.5, 0.5, 0.5]],
    "more losses than numbers": [[1.0], [-1.0], [2.0], [0.0], [-3.0]],
    "very different lengths": [[1e-8, 0.0, 1e-8], [1e8, -1e8, 0.0], [1.0, 1.0, 1.0]],
    "tiny": [[1e-30, -1e-30, 0.0], [-1e-30, 2e-30, 1e-30], [1e-31, 0.0, 1e-30]],
    "huge": [[1e30, -1e30, 0.0], [-1e30, 2e30, 1e30], [1e29, 0.0, 1e30]],
}


@pytest.mark.parametrize("place", ["at_features", "at_shared_params"])
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@methods(lambda case: case.family != "penalties")
def test_degenerate_gradients_give_finite_results(
    case: MethodCase, dtype: torch.dtype, kind: str, place: str
) -> None:
    rows = torch.tensor(DEGENERATE[kind], dtype=dtype)
    if place == "at_features":
        rows = rows[:, None, :].repeat(1, 2, 1)
    given = Given(rows)
    multi = case.multi(len(rows))
    for _ in range(3):
        merged, result = getattr(given, place)(multi)
        assert merged.shape == rows.shape[1:]
        assert bool(torch.isfinite(merged).all())
        if result.weights is not None:
            assert all(bool(torch.isfinite(weight)) for weight in result.weights.values())
        if kind == "all zero":
            assert not bool(merged.any())


@pytest.mark.parametrize("where", PLACES)
@methods(lambda case: case.family == "penalties")
def test_penalties_of_degenerate_gradients_are_finite(case: MethodCase, where: str) -> None:
    """A loss that reaches the features with a zero gradient, and one loss given twice."""
    network = Network(2)
    features, losses = network.forward()
    losses["zero"] = (features[0] * 0.0).sum() + 1.0
    losses["again"] = losses["loss_0"] * 1.0
    case.multi(4).backward(losses, **case.place(network, features, where))
    for gradient in network.gradients():
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("count", [1, 2, 17, 200])
@every_method
def test_from_one_to_two_hundred_losses(case: MethodCase, count: int) -> None:
    network = Network(count)
    multi = case.multi(count)
    gradients, result = case.step(multi, network)
    assert list(result.losses) == names(count)
    for gradient in gradients:
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("count", [2, 5])
@methods(lambda case: not case.measures_at_shared_params)
def test_losses_on_separate_parts_of_the_batch(case: MethodCase, count: int) -> None:
    network = Separated(count)
    compares = case.weighs_gradients and case.cls.needs.gramian
    if compares:
        with pytest.raises(BatchSeparatedError, match=r"shared_params=.*virtual_layer"):
            case.step(case.multi(count), network)
        assert all(gradient is None for gradient in network.gradients())
    where = {"measure_at": "virtual_layer"} if compares else {}
    gradients, _ = case.step(case.multi(count, **where), network)
    for gradient in gradients:
        assert bool(torch.isfinite(gradient).all())
