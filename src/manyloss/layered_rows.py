"""Per-loss gradients at shared parameters, some layers' in the form of gradients at their outputs.

Axis letters: T losses, P shared parameters (numbers).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manyloss import layer_norms
from manyloss.layers import Layer
from manyloss.linalg import Weights
from manyloss.rows import Merge, Rows


class LayeredRows(Rows):
    """Rows, of which those at some layers' parameters are made from what comes back at the layers' outputs.

    T gradients of such a layer's weight are never formed for inner products and weighted sums.
    """

    def __init__(self, params: Sequence[Tensor], layers: Sequence[Layer]) -> None:
        number = {id(param): k for k, param in enumerate(params)}
        self._layers = [(layer, [number.pop(id(param)) for param in layer.params]) for layer in layers]
        self._rest = list(number.values())
        self._params = list(params)
        self._outputs: list[list[Tensor | None]] = [[] for _ in layers]
        rest = [params[k] for k in self._rest]
        super().__init__(rest)
        self.places += [layer.output for layer in layers]

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take in the gradients of the next loss, at ``places``."""
        super().add(gradients[: len(self._rest)])
        for column, gradient in zip(self._outputs, gradients[len(self._rest) :], strict=True):
            column.append(gradient)

    def gramian(self) -> Tensor:
        """<g_i, g_j>. [T, T], float64, CPU."""
        total = super().gramian()
        for (layer, _), column in zip(self._layers, self._outputs, strict=True):
            total += layer_norms.gramian(layer, column)
        return total

    def finite(self) -> list[bool]:
        """Per loss, whether all its entries are finite."""
        return [a and b for a, b in zip(super().finite(), self._at_outputs().finite(), strict=True)]

    def combine(self, weights: Weights) -> list[Tensor | None]:
        """sum_i w_i g_i per parameter; a layer's from the weighted sum at its output."""
        merged: list[Tensor | None] = [None] * len(self._params)
        at_outputs = self._at_outputs()
        self._outputs = [[] for _ in self._layers]
        for (layer, numbers), tensor in zip(self._layers, at_outputs.combine(weights), strict=True):
            if tensor is not None:
                for k, gradient in zip(numbers, layer.gradients(tensor), strict=True):
                    merged[k] = gradient.to(self._params[k].dtype)
        for k, tensor in zip(self._rest, super().combine(weights), strict=True):
            merged[k] = tensor
        return merged

    def merge(self, function: Merge, *, at_once: bool = False) -> list[Tensor | None]:
        """As `Rows.merge`, from every parameter's own gradients."""
        return self._whole().merge(function, at_once=at_once)

    def matrix(self) -> Tensor:
        """The rows side by side. [T, P]"""
        return self._whole().matrix()

    def _at_outputs(self) -> Rows:
        rows = Rows([layer.inputs for layer, _ in self._layers])
        for row in zip(*self._outputs, strict=True):
            rows.add(row)
        return rows

    def _whole(self) -> Rows:
        """Every parameter's own gradients."""
        rows = Rows(self._params)
        for i in range(self.count):
            row: list[Tensor | None] = [None] * len(self._params)
            for k, column in zip(self._rest, self._gradients, strict=True):
                row[k] = column[i]
            for (layer, numbers), column in zip(self._layers, self._outputs, strict=True):
                own = column[i]
                if own is not None:
                    for k, gradient in zip(numbers, layer.gradients(own), strict=True):
                        row[k] = gradient
            rows.add(row)
        return rows
