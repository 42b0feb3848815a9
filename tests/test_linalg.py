"""Gramian and cosines."""

import pytest
import torch

from manyloss import linalg


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_gramian_neither_vanishes_nor_overflows(dtype: torch.dtype, scale: float) -> None:
    rows = [torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)]
    expected = sum(tensor.flatten(1) @ tensor.flatten(1).T for tensor in rows)
    found = linalg.gramian([(tensor * scale).to(dtype) for tensor in rows])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found / scale**2, expected, rtol=1e-5, atol=1e-5)


def test_cosines_of_zero_rows_are_zero() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-6.0, -8.0]], dtype=torch.float64)
    found = linalg.cosines(linalg.gramian([rows]))
    expected = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
