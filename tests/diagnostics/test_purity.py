"""Sign purity by hand."""

import pytest
import torch

from manyloss.diagnostics import purity_of


def test_by_hand_at_shared_parameters() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0, 3.0], [3.0, -2.0, 0.0, -1.0]])
    found = purity_of([rows])
    # P = 1, 1/2, undecided, 3/4; sizes 4, 4, 0, 4; passed 4, 2, -, (3 * 3 + 1 * 1) / 4 = 2.5
    assert found.histogram == pytest.approx((0, 0, 0, 0, 0, 1 / 3, 0, 1 / 3, 0, 1 / 3))
    assert found.mixed == pytest.approx(2 / 3)
    assert found.passed == pytest.approx((4 + 2 + 2.5) / 12)


def test_by_hand_at_features_signs_count_and_the_batch_is_summed() -> None:
    features = torch.tensor([[1.0, -1.0], [2.0, 1.0]])  # [B, F]
    gradients = torch.tensor([[[1.0, 1.0], [1.0, 3.0]], [[-4.0, 0.0], [0.0, 2.0]]])  # [T, B, F]
    # G_1 = (1 + 1, -1 + 3) = (2, 2); G_2 = (-4, 2)
    found = purity_of([gradients], [features])
    assert found.mixed == pytest.approx(0.5)
    assert found.passed == pytest.approx(((2 * 2 + 4 * 4) / 6 + 4) / 10)
    two = purity_of([gradients[:, :, :1], gradients[:, :, 1:]], [features[:, :1], features[:, 1:]])
    assert two == found  # positions of all features tensors together


def test_what_graddrop_passes_is_what_is_said() -> None:
    from manyloss.aggregation import GradDrop

    rows = torch.randn(3, 2000, dtype=torch.float64)
    passed = GradDrop(seed=0)(rows).abs().sum() / rows.abs().sum()
    assert purity_of([rows]).passed == pytest.approx(float(passed), abs=0.02)


def test_nothing_is_said_of_zero_gradients() -> None:
    assert purity_of([torch.zeros(2, 5)]) is None
