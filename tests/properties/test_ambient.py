"""torch's default device and type are never trusted by a method: neither for its state nor for its draws."""

from collections.abc import Iterator

import pytest
import torch

from manyloss.gradients import LossGradients
from manyloss.linalg import vector
from tests.problems import names
from tests.properties.methods import MethodCase, every_method


@pytest.fixture(params=["meta device", "half precision"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "meta device":
        with torch.device("meta"):
            yield
    else:
        torch.set_default_dtype(torch.float16)
        yield
        torch.set_default_dtype(torch.float32)


def use(case: MethodCase) -> list[torch.Tensor]:
    """What a step calls of this method, by hand."""
    method = case.make(3)
    method.start(names(3))
    cpu = {"dtype": torch.float64, "device": "cpu"}
    values = torch.arange(1.0, 4.0, **cpu)
    rows = torch.arange(24.0, **cpu).sin().view(3, 4, 2)
    gradients = LossGradients(names(3), values, [rows.requires_grad_(case.family == "penalties")])
    found = []
    for _ in range(3):
        method.check(names(3), values)
        if case.family == "weighting":
            weights = method.weigh_gradients(gradients)
            found.append(vector(method.weigh_losses(names(3), values) if weights is None else weights))
            method.learn(names(3), values, gradients.norms)
        elif case.family == "penalties":
            found.append(method(gradients))
            method.learn(gradients.detach())
        else:
            found += method.aggregate([rows], [rows[0]], names(3))
        method.commit()
    return [*found, *method.state_dict().values()]


@pytest.mark.usefixtures("elsewhere")
@every_method
def test_defaults_change_nothing(case: MethodCase) -> None:
    found = use(case)
    with torch.device("cpu"):
        torch.set_default_dtype(torch.float32)
        expected = use(case)
        for actual, wanted in zip(found, expected, strict=True):
            assert actual.device.type == "cpu"
            torch.testing.assert_close(actual, wanted, rtol=0.0, atol=0.0, equal_nan=True)
