"""``multi.cut``: an identity in the forward that marks, and remembers, where losses leave the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Cuttable = TypeVar("Cuttable")


class CutFeatures(list[Tensor]):
    """Features that were cut, so that a step can tell them apart even where they depend on each other."""


class Cuts:
    """What was cut since the last step; a copy of the model has none of it."""

    def __init__(self) -> None:
        self._tensors = CutFeatures()

    def cut(self, tensors: Cuttable) -> Cuttable:
        """The same numbers as an output of a node of their own, remembered if they carry a gradient."""
        if isinstance(tensors, Tensor):
            # recomputed under a checkpoint, it is the one that was cut before
            if not (tensors.requires_grad and torch.is_grad_enabled()) or _in_a_backward():
                return tensors
            own = tensors.view_as(tensors)
            self._tensors.append(own)
            return own  # type: ignore[return-value]
        if isinstance(tensors, Mapping):
            return type(tensors)({key: self.cut(item) for key, item in tensors.items()})  # type: ignore[call-arg]
        if isinstance(tensors, (list, tuple)):
            items = [self.cut(item) for item in tensors]
            return type(tensors)(*items) if hasattr(tensors, "_fields") else type(tensors)(items)
        raise TypeError(
            f"multi.cut takes a tensor, or a sequence or mapping of tensors, got {type(tensors).__name__}."
        )

    @property
    def waiting(self) -> CutFeatures:
        """What a step would take."""
        return self._tensors

    def take(self, features: Any) -> Any:
        """The features of a step: those that were passed, or those that were cut; the latter are let go.

        Raises:
            ValueError: both are there.

        """
        cut, self._tensors = self._tensors, CutFeatures()
        if not cut:
            return features
        if features is not None:
            raise ValueError(
                f"features= is given, and {len(cut)} tensors were cut with multi.cut in the forward: leave "
                "features out, or the cuts."
            )
        return cut

    def __getstate__(self) -> dict[str, Any]:
        return {"_tensors": CutFeatures()}


def _in_a_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def cut_apart(cuts: Cuts, tensors: Cuttable) -> Cuttable:
    """A compiled forward leaves its graph here: what lies before and after a cut stays apart."""
    return _not_compiled(cuts, tensors) if torch.compiler.is_compiling() else cuts.cut(tensors)


# The compiler is imported only when this is called.
_not_compiled = torch._disable_dynamo(Cuts.cut)  # type: ignore[attr-defined]
