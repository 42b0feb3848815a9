"""Inner products of T losses' gradients at one layer's weight, without T gradients of that weight.

Where loss i sends d_in back at N positions, and a_n went in, its gradient is G_i = sum_n d_in a_n^T, and so

    <G_i, G_j> = sum_nm K_nm <d_in, d_jm>   with   K_nm = <a_n, a_m>  (+ 1 for a bias):

N^2 k + T N^2 C / 2 multiplications in place of T N k C. At the last convolution of a ResNet-18 (32 images of
32 x 32: N = 512, k = 4608, C = 512) and 40 losses that is a tenth. Differentially private training finds the
norms of single examples in this way (Goodfellow 2015, arXiv:1510.01799) and chooses by the same count (Bu et
al. 2022, arXiv:2205.10683); here losses take the place of examples.

Axis letters: T losses, B batch, C channels out, *S sizes in space, N = B x S positions, k numbers in at one
of them, g groups of channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from manyloss.layers import Layer, find_layers

BLOCK = 128  # positions multiplied at a time: of the symmetric K, only blocks up to the diagonal are needed
LARGEST = 1 << 26  # numbers in K
SHORT = 1 << 13  # numbers that are summed in float32, before float64 sums the sums
CANCELLED = 1e-3  # a square this small beside its terms is formed in float64


def layer_behind(features: Iterable[tuple[Any, int]], params: Sequence[Tensor], count: int) -> Layer | None:
    """The layer that ``params`` belong to, if it pays to measure ``count`` losses at its output.

    Args:
        features: the edges of the features. No loss may reach the parameters around them.
        params: a weight, or a weight and its bias.
        count: T.

    Returns:
        None where these are not the parameters of one layer of which ``layers`` knows, and where gradients of
        the weight itself cost less.

    """
    if len(params) > 2:
        return None
    layers = find_layers((node for node, _ in features), params)
    if len(layers) != 1 or len(layers[0].params) != len(params):
        return None
    return layers[0] if pays(layers[0], count) else None


def pays(layer: Layer, count: int) -> bool:
    """Whether this takes fewer multiplications than ``count`` gradients of the weight."""
    N, k, C = layer.positions, layer.fan_in, layer.channels
    here = layer.groups * N * N * k + count * N * (N + min(N, BLOCK)) // 2 * C
    fits = layer.groups * N * N <= LARGEST and layer.inputs.device.type != "mps"  # which has no float64
    return fits and here < count * N * k * C


@torch.no_grad()
def norms(layer: Layer, gradients: Iterable[Tensor | None]) -> Tensor:
    """||G_i||_2 of T gradients at the layer's output, each [B, C, *S] or None for zero. [T], float64, CPU."""
    kernel = _Kernel(layer)
    squares = []
    with torch.autocast(layer.inputs.device.type, enabled=False):
        for gradient in gradients:
            square = layer.inputs.new_zeros((), dtype=torch.float64)
            if gradient is not None:
                rows = layer.coming_back(gradient)
                square = kernel.square(rows)
                if kernel.cancels(rows, square):
                    square = kernel.square(rows.double())
            squares.append(square)
    return torch.stack(squares).clamp(min=0.0).sqrt().cpu()


@torch.no_grad()
def gramian(layer: Layer, gradients: Sequence[Tensor | None]) -> Tensor:
    """<G_i, G_j> of T gradients at the layer's output. [T, T], float64, CPU."""
    kernel = _Kernel(layer)
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device="cpu")
    with torch.autocast(layer.inputs.device.type, enabled=False):
        rows = {i: layer.coming_back(g) for i, g in enumerate(gradients) if g is not None}
        if rows:
            present = list(rows)
            found = kernel.products(list(rows.values()))
            if any(kernel.cancels(own, found[n, n]) for n, own in enumerate(rows.values())):
                found = kernel.products([own.double() for own in rows.values()])
            total[torch.tensor(present)[:, None], present] = found.cpu()
    return total


class _Kernel:
    """K between the positions of a layer, and what it makes of d_in, [g, N, C / g] of each loss."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._halved: dict[torch.dtype, Tensor] = {}

    def square(self, rows: Tensor) -> Tensor:
        """||G_i||^2, in float64."""
        parts = [
            self._times(rows, block).mul_(rows[:, block]).sum(dtype=torch.float64) for block in self._blocks()
        ]
        return 2.0 * torch.stack(parts).sum()

    def products(self, rows: Sequence[Tensor]) -> Tensor:
        """<G_i, G_j>, in float64. [T, T]"""
        half = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
        for block in self._blocks():
            left = torch.stack([self._times(own, block).flatten() for own in rows])
            right = torch.stack([own[:, block].flatten() for own in rows])
            # float32 sums short pieces only
            for a, b in zip(torch.split(left, SHORT, 1), torch.split(right, SHORT, 1), strict=True):
                half += a @ b.T
        return half + half.T

    def cancels(self, rows: Tensor, square: Tensor) -> bool:
        """Whether more cancels between positions than float32 can bear."""
        if rows.dtype != torch.float32:
            return False
        alone = 2.0 * self._lower(rows.dtype).diagonal(dim1=1, dim2=2)  # K_nn
        return bool(square < CANCELLED * (alone * rows.square().sum(2)).sum())

    def _times(self, rows: Tensor, block: slice) -> Tensor:
        return self._lower(rows.dtype)[:, block, : block.stop] @ rows[:, : block.stop]

    def _blocks(self) -> list[slice]:
        N = self.layer.positions
        return [slice(start, min(start + BLOCK, N)) for start in range(0, N, BLOCK)]

    def _lower(self, dtype: torch.dtype) -> Tensor:
        """K, its blocks on the diagonal halved: up to these, and with its transpose, it is K. [g, N, N]"""
        if dtype not in self._halved:
            K = torch.zeros((), dtype=dtype, device=self.layer.inputs.device)
            for positions in self.layer.going_in():
                K = K + positions.to(dtype) @ positions.to(dtype).mT
            K += float(self.layer.bias)
            for block in self._blocks():
                K[:, block, block] *= 0.5
            self._halved[dtype] = K
        return self._halved[dtype]
