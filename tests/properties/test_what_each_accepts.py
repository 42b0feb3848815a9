"""Which values of a loss a method can work with: what it says in ``accepts`` is what it does.

"any": finite. "0 and more": below 0 is refused. "above 0": so is 0. "first above 0": only the first value of
a loss has to be. What is refused is named before anything is touched.
"""

from typing import Any

import pytest
import torch

from manyloss import MultiLoss
from manyloss.weighting import MGDA, GradNorm
from tests.problems import Given, names
from tests.properties.methods import CASES, flat

SETTINGS = {  # where settings decide
    "MGDA(normalize='loss')": (lambda: MultiLoss(MGDA("loss")), "above 0"),
    "MGDA(normalize='loss+')": (lambda: MultiLoss(MGDA("loss+")), "above 0"),
    "MGDA(normalize='l2')": (lambda: MultiLoss(MGDA("l2")), "any"),
    "GradNorm(initial=...)": (lambda: MultiLoss(GradNorm(initial=1.0)), "above 0"),
}
REFUSED = {  # kind -> (values refused in the first step, values refused later)
    "any": ((), ()),
    "0 and more": ((-0.5,), (-0.5,)),
    "above 0": ((-0.5, 0.0), (-0.5, 0.0)),
    "first above 0": ((-0.5, 0.0), ()),
}
VALUES = (-0.5, 0.0, 1e-30, 3.0)


def multis() -> list[Any]:
    listed = [pytest.param(case.multi, case.make().accepts, id=case.name) for case in CASES]
    return listed + [pytest.param(make, kind, id=name) for name, (make, kind) in SETTINGS.items()]


class Values(Given):
    """Losses of chosen values; gradients that conflict."""

    def __init__(self) -> None:
        super().__init__(torch.tensor([[[1.0, 0.5]], [[-1.0, 0.5]], [[0.2, -1.0]]], dtype=torch.float64))

    def losses(self, place: torch.Tensor) -> dict[str, torch.Tensor | None]:
        found = super().losses(place)
        return {
            name: None if value is None else found[name] - self.offset + value
            for name, value in zip(found, self.values, strict=True)
        }

    def step(self, multi: MultiLoss, *values: float | None) -> Any:
        self.values = values
        return self.at_features(multi)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize(("make", "kind"), multis())
def test_a_value_is_accepted_or_refused_by_name(make: Any, kind: str, first: bool, value: float) -> None:
    given, multi = Values(), make()
    if not first:
        given.step(multi, 1.0, 2.0, 0.5)
    before = flat(multi.state_dict())
    given.point.grad = None
    if value in REFUSED[kind][0 if first else 1]:
        with pytest.raises(ValueError, match=rf"loss 'loss_1' is {value:g}"):
            given.step(multi, 1.0, value, 0.5)
        assert given.point.grad is None
        assert flat(multi.state_dict()) == before
        merged, result = given.step(multi, 1.0, 2.0, 0.5)  # and goes on
    else:
        merged, result = given.step(multi, 1.0, value, 0.5)
    assert bool(torch.isfinite(merged).all())
    assert all(bool(torch.isfinite(weight)) for weight in result.weights.values())


@pytest.mark.parametrize(("make", "kind"), multis())
def test_losses_come_and_go(make: Any, kind: str) -> None:
    """Each is absent once, also in the first step and all but one; a whole epoch without one, too."""
    given, multi = Values(), make()
    for values in (
        (None, 1.0, 2.0), (0.5, None, None), (0.5, 1.0, None), (None, None, 2.0), (0.5, 1.0, 2.0)
    ):  # fmt: skip
        merged, result = given.step(multi, *values)
        assert bool(torch.isfinite(merged).all())
        present = [name for name, value in zip(names(3), values, strict=True) if value is not None]
        assert list(result.weights) == present
        assert all(bool(torch.isfinite(weight)) for weight in result.weights.values())
        multi.end_epoch()
