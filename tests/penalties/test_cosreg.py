"""CosReg against eq. 4 and 5 written pair by pair and differentiated by autograd."""

import numpy as np
import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.gradients import LossGradients
from manyloss.penalties import CosReg
from tests.problems import LAYOUTS, Network, assert_same
from tests.reference.cosreg import cosine, cosreg


def penalty_of(rows: Tensor, alpha: float = 1.0, values: Tensor | None = None, **settings) -> Tensor:
    return CosReg(alpha=alpha, **settings)(LossGradients.of(rows, values))


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("shape", [(9,), (4, 3), (3, 2, 2, 2)])
def test_the_value_is_the_oracles_and_lies_in_its_range(count: int, shape: tuple[int, ...]) -> None:
    for _ in range(5):
        rows = torch.randn(count, *shape, dtype=torch.float64)
        value = float(penalty_of(rows, 3.0))
        assert value == pytest.approx(float(cosreg([row.reshape(-1) for row in rows], 3.0)), rel=1e-12)
        assert 0.0 <= value <= 3.0


def test_the_ends_of_the_range() -> None:
    assert float(penalty_of(torch.eye(4, dtype=torch.float64))) == 0.0
    assert float(penalty_of(torch.ones(4, 5, dtype=torch.float64))) == pytest.approx(1.0, rel=1e-12)
    signs = torch.tensor([1.0, -1.0, 2.0, -3.0], dtype=torch.float64)[:, None]
    assert float(penalty_of(signs * torch.ones(4, 5, dtype=torch.float64))) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.0, np.pi / 2, 2.5, np.pi])
def test_two_losses_give_alpha_times_the_squared_cosine(angle: float) -> None:
    """Eq. 4."""
    rows = torch.tensor([[2.0, 0.0], [5.0 * np.cos(angle), 5.0 * np.sin(angle)]], dtype=torch.float64)
    assert float(penalty_of(rows, 10.0)) == pytest.approx(10.0 * np.cos(angle) ** 2, abs=1e-12)


def test_one_loss_gives_zero() -> None:
    assert float(penalty_of(torch.randn(1, 5))) == 0.0


def test_a_zero_row_counts_as_orthogonal() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = penalty_of(rows, 6.0)
    assert float(value.detach()) == pytest.approx(2.0)  # one of the three pairs has cosine 1
    (slope,) = torch.autograd.grad(value, rows)
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lengths_of_the_gradients_do_not_matter(dtype: torch.dtype, scale: float) -> None:
    rows = torch.randn(4, 6, dtype=dtype)
    lengths = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=dtype)[:, None]
    expected = float(penalty_of(rows))
    assert float(penalty_of(rows * lengths * scale)) == pytest.approx(expected, rel=1e-4)


def test_its_slope_is_the_oracles() -> None:
    for count in (2, 3, 6):
        rows = torch.randn(count, 7, dtype=torch.float64, requires_grad=True)
        twin = rows.detach().clone().requires_grad_(True)
        (actual,) = torch.autograd.grad(penalty_of(rows, 2.0), rows)
        (expected,) = torch.autograd.grad(cosreg(list(twin), 2.0), twin)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_scale_by_loss_multiplies_with_the_mean_loss() -> None:
    rows, values = torch.randn(3, 5, dtype=torch.float64), torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    plain = float(penalty_of(rows, 2.0, values))
    scaled = float(penalty_of(rows, 2.0, values, scale_by_loss=True))
    assert scaled == pytest.approx(3.0 * plain)


# ---------------------------------------------------------------- inside a step


def naive(network: Network, points: list[Tensor], losses: dict[str, Tensor], alpha: float, scaled: bool):
    rows = []
    for loss in losses.values():
        parts = torch.autograd.grad(
            loss, points, create_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    mean = float(sum(loss.detach() for loss in losses.values())) / len(losses)
    penalty = cosreg(rows, alpha * mean if scaled else alpha)
    total = sum(losses.values()) + penalty
    return list(torch.autograd.grad(total, network.parameters(), allow_unused=True)), penalty, rows


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scale_by_loss"])
@pytest.mark.parametrize("where", ["shared_params", "features", "both"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_encoder_and_heads_are_moved_as_the_oracle_says(
    layout: type[Network], where: str, scaled: bool
) -> None:
    network, twin = layout(3), layout(3)
    multi = MultiLoss(penalties=[CosReg(alpha=5.0, scale_by_loss=scaled)])
    for step in range(2):
        network.zero_grad()
        features, losses = network.forward(step)
        place = {}
        if where != "shared_params":
            place["features"] = features
        if where != "features":
            place["shared_params"] = network.last_layer()
        result = multi.backward(losses, **place)
        features, losses = twin.forward(step)
        points = features if where == "features" else twin.last_layer()
        expected, penalty, rows = naive(twin, points, losses, 5.0, scaled)
        assert_same(network.gradients(), expected)
        assert float(result.penalties["CosReg"]) == pytest.approx(float(penalty.detach()), rel=1e-9)
        for i in range(3):
            for j in range(3):
                if result.cosines is not None:
                    assert float(result.cosines[i, j]) == pytest.approx(
                        float(cosine(rows[i], rows[j]).detach()), abs=1e-9
                    )


def test_training_with_it_turns_gradients_apart() -> None:
    """The squared cosine falls when only the penalty has a say, and the result reports it."""
    network = Network(2)
    multi = MultiLoss(penalties=[CosReg(alpha=100.0)])
    optimizer = torch.optim.SGD(network.parameters(), lr=2e-3)
    values = []
    for _ in range(80):
        optimizer.zero_grad()
        _, losses = network.forward(0)
        result = multi.backward(losses, shared_params=network.last_layer())
        values.append(float(result.penalties["CosReg"]))
        optimizer.step()
    assert values[-1] < 0.5 * values[0]


def test_the_standard_deviation_of_the_cosines() -> None:
    """Per pair: over the training, over the first epoch and over the last window of 50 steps."""
    network = Network(3)
    penalty = CosReg(alpha=0.0)
    multi = MultiLoss(penalties=[penalty])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    seen: list[np.ndarray] = []
    for step in range(70):
        optimizer.zero_grad()
        _, losses = network.forward(step)
        rows = []
        for loss in losses.values():
            parts = torch.autograd.grad(loss, network.last_layer(), retain_graph=True)
            rows.append(torch.cat([part.reshape(-1) for part in parts]))
        seen.append(np.array([float(cosine(rows[i], rows[j])) for i, j in ((0, 1), (0, 2), (1, 2))]))
        multi.backward(losses, shared_params=network.last_layer())
        optimizer.step()
        if step == 19:
            multi.end_epoch()
    history = np.array(seen)
    spans = {"training": history, "first_epoch": history[:20], "window": history[-50:]}
    for span, cosines in spans.items():
        found = penalty.cosine_std(span)
        assert list(found) == ["loss_0|loss_1", "loss_0|loss_2", "loss_1|loss_2"]
        matches = [np.allclose(list(found.values()), cosines.std(axis=0, ddof=d), rtol=1e-6) for d in (0, 1)]
        assert any(matches), span


def test_a_negative_weight_is_refused_when_built() -> None:
    with pytest.raises(ValueError, match="alpha must be a finite number, 0 or more"):
        CosReg(alpha=-1.0)
