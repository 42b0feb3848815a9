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


Weights = Sequence[float] | Tensor
"""One number per loss; a list of a few costs a step less than a tensor."""


def vector(values: Weights) -> Tensor:
    """Numbers as methods take them: [T], float64, CPU, whatever torch's defaults are."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.array(values, dtype=np.float64))


def plain(values: Weights) -> list[float]:
    """The same as numbers of Python."""
    return values.tolist() if isinstance(values, Tensor) else list(values)


def as_rows(tensor: Tensor) -> Tensor:
    """[T, ...] as a matrix [T, N]; of a parameter that is one number, [T], a column."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]


def row_scales(rows: Sequence[Tensor]) -> Tensor:
    """Largest |entry| of each of T rows over all tensors [T, ...]; inf or nan where a row holds one. [T]"""
    scales = [as_rows(tensor.detach()).abs().amax(1) for tensor in rows if tensor[0].numel()]
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
        flat = as_rows(tensor.detach())
        if not flat.is_cpu and wide(flat.device) != torch.float64:
            flat = flat.cpu()
        for start in range(0, max(flat.shape[1], 1), _CHUNK):
            part = (flat if flat.shape[1] <= _CHUNK else flat[:, start : start + _CHUNK]).double()
            product = part @ part.T
            total = product if total is None else total.add_(product.to(total.device))
    assert total is not None
    return total.cpu()


def row_norms(rows: Sequence[Tensor]) -> Tensor:
    """||g_i||_2 over all the tensors [T, ...], in float64, without the other inner products. [T], CPU."""
    norms = [
        torch.linalg.vector_norm(as_rows(tensor.detach()), dim=1, dtype=wide(tensor.device)).cpu().double()
        for tensor in rows
    ]
    if len(norms) == 1:
        only: Tensor = norms[0]
        return only
    joined: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return joined


def fits(weight: float) -> bool:
    """Whether a weight, times an ordinary gradient, stays within float32."""
    return weight == 0.0 or 1e-30 < abs(weight) < 1e30


def weighted_sum(weights: Weights, rows: Tensor) -> Tensor:
    """sum_i w_i g_i of rows [T, ...]; in float64 where the rows' own type cannot hold a weight. [...]"""
    w = plain(weights)
    if rows.dtype == torch.float64 or all(map(fits, w)):
        if len(w) == 2:  # where the fixed cost of each operation counts
            one, other = rows.unbind()
            return torch.add(one if w[0] == 1.0 else one * w[0], other, alpha=w[1])
        held = torch.tensor(w, dtype=rows.dtype, device=rows.device)
        summed: Tensor = held @ as_rows(rows)
        return summed.view(rows.shape[1:])
    total: Tensor = vector(w) @ as_rows(rows.detach().cpu().double())
    return total.view(rows.shape[1:]).to(rows.device, rows.dtype)


def wide(device: torch.device) -> torch.dtype:
    """float64 where the device has it, else float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def cosines(gramian: Tensor) -> Tensor:
    """Pairwise cosines of a Gramian [T, T]; 0 where a row is zero, 1 on the diagonal of the others."""
    norms = gramian.diagonal().sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    return (gramian / safe[:, None] / safe[None, :]).clamp(-1.0, 1.0)
