"""The plain sum."""

import torch

from manyloss.aggregation import Sum


def test_sum_adds_the_losses_up_at_any_place() -> None:
    rows = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(Sum()(rows, torch.randn(4, 2, 2)), rows[0] + rows[1] + rows[2])
    flat = torch.randn(2, 5)
    torch.testing.assert_close(Sum()(flat, None), flat[0] + flat[1])
