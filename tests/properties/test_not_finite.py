"""Inf and NaN: refused by name without a GradScaler; passed on, so that the step is skipped, with one."""

import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from tests.problems import Network, assert_identical
from tests.properties.methods import CASES, MethodCase, every_method, flat, methods
from tests.properties.test_bad_input import nothing_written, refused

WHERE = ["usual", "shared_params"]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("where", WHERE)
@every_method
def test_a_loss_that_is_not_finite_is_named(case: MethodCase, where: str, value: float) -> None:
    def change(losses, place):
        losses["loss_1"] = losses["loss_1"] + value

    refused(case, change, "'loss_1' is (inf|-inf|nan)", where=where)


def with_infinite_gradient(features: list[Tensor]) -> Tensor:
    """A finite loss whose gradient at the features is not: d sqrt(x) at 0."""
    return (features[0] * 0.0).abs().sum().add(0.0).sqrt() + 0.7


@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize("where", WHERE)
@methods(lambda case: case.reads_gradients)
def test_a_gradient_that_is_not_finite_is_named(case: MethodCase, where: str, read: str) -> None:
    network, multi = Network(), case.multi(read=read)
    for warm in (False, True):
        if warm:
            case.step(multi, network, where=where)
        features, losses = network.forward()
        losses["loss_1"] = with_infinite_gradient(features)
        place = case.place(network, features, where)
        with nothing_written(multi, network), pytest.raises(ValueError, match="gradient of loss 'loss_1'"):
            multi.backward(losses, **place)


def amp_run(case: MethodCase, bad: dict[int, str], where: str) -> tuple[Network, MultiLoss, list[float]]:
    """Six steps with a real GradScaler and SGD; `bad` says which extra steps are spoiled, and how."""
    network, multi = Network(), case.multi()
    for module in (network.encoder, network.heads):
        module.float()
    network.dtype = torch.float32
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    scales = []
    for step in range(6):
        for spoiled in ([True] if step in bad else []) + [False]:
            network.zero_grad()
            features, losses = network.forward(step)
            if spoiled:
                losses["loss_1"] = (
                    losses["loss_1"] * float("inf")
                    if bad[step] == "loss"
                    else with_infinite_gradient(features)
                )
            before = flat(multi.state_dict())
            multi.backward(losses, **case.place(network, features, where), grad_scaler=scaler)
            if spoiled:
                assert flat(multi.state_dict()) == before
                assert any(
                    not bool(torch.isfinite(gradient).all())
                    for gradient in network.gradients()
                    if gradient is not None
                )
            scaler.step(optimizer)
            scaler.update()
        scales.append(scaler.get_scale())
    return network, multi, scales


SPOILED = [
    (case, kind) for case in CASES for kind in ("loss", "gradient") if kind == "loss" or case.reads_gradients
]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("case", "kind"), SPOILED, ids=[f"{case.name}-{kind}" for case, kind in SPOILED])
def test_a_grad_scaler_skips_the_step_and_nothing_else(case: MethodCase, kind: str, where: str) -> None:
    """Bit for bit the run without the bad steps: model, method state; only the scaler's scale is lower."""
    clean, clean_multi, _ = amp_run(case, {}, where)
    network, multi, scales = amp_run(case, {0: kind, 3: kind}, where)
    assert scales[-1] == 2.0**8
    assert_identical(network.parameters(), clean.parameters())
    assert flat(multi.state_dict()) == flat(clean_multi.state_dict())


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_a_disabled_grad_scaler_changes_nothing(case: MethodCase, where: str) -> None:
    network, twin = Network(), Network()
    expected, _ = case.step(case.multi(), network, where=where)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    actual, _ = case.step(case.multi(), twin, where=where, grad_scaler=scaler)
    assert_identical(actual, expected)


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_scaled_gradients_are_the_scale_times_the_plain_ones(case: MethodCase, where: str) -> None:
    network, twin = Network(), Network()
    expected, plain = case.step(case.multi(), network, where=where)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    actual, result = case.step(case.multi(), twin, where=where, grad_scaler=scaler)
    torch.testing.assert_close([gradient / 2.0**12 for gradient in actual], expected, rtol=1e-9, atol=1e-12)
    for name, loss in plain.losses.items():
        torch.testing.assert_close(result.losses[name], loss)
    if plain.norms is not None:
        for name, norm in plain.norms.items():
            torch.testing.assert_close(result.norms[name], norm)
