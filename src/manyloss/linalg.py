"""Gramian, norms and cosines, in float64.

Axis letters: T losses. Squares are formed in float64, where gradients from 1e-150 to 1e150 neither vanish
nor overflow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_CHUNK = 1 << 18  # numbers of one row that are held in float64 at a time


def vector(values: Sequence[float]) -> Tensor:
    """Numbers as methods take them: [T], float64, CPU, whatever torch's defaults are."""
    return torch.from_numpy(np.array(values, dtype=np.float64))  # a fifth of the time of torch.tensor


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
    total: Tensor | None = None
    for tensor in rows:
        flat = tensor.detach().flatten(1)
        if wide(flat.device) != torch.float64:
            flat = flat.cpu()
        for start in range(0, max(flat.shape[1], 1), _CHUNK):
            part = flat[:, start : start + _CHUNK].double()
            product = part @ part.T
            total = product if total is None else total.add_(product.to(total.device))
    assert total is not None
    return total.cpu()


def row_norms(rows: Sequence[Tensor]) -> Tensor:
    """||g_i||_2 over all the tensors [T, ...], in float64, without the other inner products. [T], CPU."""
    norms = [
        torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1, dtype=wide(tensor.device)).cpu().double()
        for tensor in rows
    ]
    if len(norms) == 1:
        only: Tensor = norms[0]
        return only
    joined: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return joined


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """sum_i w_i g_i of rows [T, ...]; in float64 where the rows' own type cannot hold a weight. [...]"""
    if rows.dtype == torch.float64 or all(w == 0.0 or 1e-30 < abs(w) < 1e30 for w in weights.tolist()):
        held = weights.to(rows.device, rows.dtype)
        summed: Tensor = held @ rows.flatten(1)
        return summed.view(rows.shape[1:])
    total: Tensor = weights @ rows.detach().cpu().double().flatten(1)
    return total.view(rows.shape[1:]).to(rows.device, rows.dtype)


def wide(device: torch.device) -> torch.dtype:
    """float64 where the device has it, else float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def cosines(gramian: Tensor) -> Tensor:
    """Pairwise cosines of a Gramian [T, T]; 0 where a row is zero, 1 on the diagonal of the others."""
    norms = gramian.diagonal().sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return (gramian / safe[:, None] / safe[None, :]).clamp(-1.0, 1.0)
