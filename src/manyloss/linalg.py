"""Gramian, norms and cosines, in float64.

Axis letters: T losses. Squares are formed in float64, where gradients from 1e-150 to 1e150 neither vanish
nor overflow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 18  # numbers of one row that are held in float64 at a time


def row_scales(rows: Sequence[Tensor]) -> Tensor:
    """Largest |entry| of each of T rows over all tensors [T, ...]; inf or nan where a row holds one. [T]"""
    scales = [tensor.detach().flatten(1).abs().amax(1) for tensor in rows if tensor[0].numel()]
    if not scales:
        return torch.zeros(rows[0].shape[0])
    return torch.stack(scales).amax(0)


def gramian(rows: Sequence[Tensor]) -> Tensor:
    """Inner products <g_i, g_j>, summed in float64 over all the tensors.

    Args:
        rows: tensors [T, ...], one per place.

    Returns:
        [T, T], float64, on the CPU.

    """
    T = rows[0].shape[0]
    total = torch.zeros(T, T, dtype=torch.float64, device=rows[0].device)
    for tensor in rows:
        flat = tensor.detach().flatten(1)
        for start in range(0, flat.shape[1], _CHUNK):
            part = flat[:, start : start + _CHUNK].double()
            total += part @ part.T
    return total.cpu()


def row_norms(rows: Sequence[Tensor]) -> Tensor:
    """||g_i||_2 over all the tensors [T, ...], in float64, without the other inner products. [T], CPU."""
    squares = [
        torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1, dtype=torch.float64) for tensor in rows
    ]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(squares), dim=0)
    return norms.cpu()


def cosines(gramian: Tensor) -> Tensor:
    """Pairwise cosines of a Gramian [T, T]; 0 where a row is zero, 1 on the diagonal of the others."""
    norms = gramian.diagonal().sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return (gramian / safe[:, None] / safe[None, :]).clamp(-1.0, 1.0)
