"""The step warns, once, when a loss has held under 1 % of the weight for many steps."""

import warnings

import pytest
import torch

from manyloss import MultiLoss
from manyloss.notices import EVERY, LOOKS, Notices
from manyloss.weighting import MGDA, PCGrad, Primary, Static
from tests.problems import Given


def steps(multi: MultiLoss, rows: torch.Tensor, count: int) -> None:
    problem = Given(rows)
    for _ in range(count):
        problem.at_features(multi)


# The minimum-norm point of these lies at the short one.
SHORT_AND_LONG = torch.tensor([[1.0, 0.0], [1000.0, 1.0]], dtype=torch.float64)


def test_a_neglected_loss_is_named_once() -> None:
    multi = MultiLoss(MGDA())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(multi, SHORT_AND_LONG, EVERY * LOOKS - 1)
    with pytest.warns(match="Loss 'loss_1' has held less than 1 % of MGDA's weight for 200 steps") as warned:
        steps(multi, SHORT_AND_LONG, 1)
    assert [*multi.notices.given.values()] == [str(one.message) for one in warned]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(multi, SHORT_AND_LONG, EVERY * LOOKS)


def test_weights_that_the_user_chose_are_no_news() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(MultiLoss(Static({"loss_0": 1.0, "loss_1": 1e-4})), SHORT_AND_LONG, EVERY * LOOKS + 1)


def test_projection_coefficients_are_no_weights() -> None:
    """One loss conflicts with another a thousand times as long: a large coefficient means nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(MultiLoss(PCGrad()), torch.tensor([[1.0, 0.0], [-1000.0, 1.0]]).double(), EVERY * LOOKS + 1)


def test_the_way_out_keeps_the_loss() -> None:
    """What the warning proposes runs, and gives that loss all of its gradient."""
    with pytest.warns(UserWarning, match=r"keep it whole with MultiLoss\(Primary\('loss_1'\)\)"):
        steps(MultiLoss(MGDA()), SHORT_AND_LONG, EVERY * LOOKS)
    multi = MultiLoss(Primary("loss_1"))
    steps(multi, SHORT_AND_LONG, 1)
    assert float(multi.last.weights["loss_1"]) >= 1.0


def test_among_many_losses_even_weights_neglect_none() -> None:
    notices, names = Notices(), [f"{k}" for k in range(139)]

    def look(weights: list[float]) -> None:
        for _ in range(EVERY * LOOKS):
            notices.of_neglect(names, weights, "GradDrop")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look([1.0] * 139)
    with pytest.warns(match=r"Loss '7' has held less than 0\.072 % of GradDrop's weight"):
        look([0.05 if name == "7" else 1.0 for name in names])


def test_a_loss_that_comes_back_is_not_neglected() -> None:
    notices = Notices()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(2 * EVERY * LOOKS):
            notices.of_neglect("ab", [1.0, 0.0 if step < EVERY * (LOOKS - 1) else 0.5], "MGDA")
