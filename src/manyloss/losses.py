"""What a user passes to a step: the losses by name, the features, the shared parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from manyloss import checks
from manyloss.distributed import Ranks
from manyloss.gradients import Root

Losses = Mapping[str, Tensor | None] | Sequence[Tensor | None] | Tensor


@dataclass
class NamedLosses:
    """The losses of one step.

    Attributes:
        names: all of them, also the absent.
        roots: where a backward starts; None for an absent loss.
        values: detached scalars; None for an absent loss.

    """

    names: tuple[str, ...]
    roots: list[Root | None]
    values: list[Tensor | None]

    @property
    def device(self) -> torch.device | None:
        """The device of the first loss that is there."""
        return next((value.device for value in self.values if value is not None), None)

    def check_devices(self, tensors: Sequence[Tensor], place: str) -> None:
        """Losses and the place where they are read have to be on one device."""
        for tensor in tensors:
            for name, value in zip(self.names, self.values, strict=True):
                if value is not None:
                    checks.same_device(name, value.device, place, tensor.device)

    def exchange(self, ranks: Ranks) -> PresentLosses:
        """Values averaged over the ranks, and which losses any rank has.

        A rank without a loss passes in 0 for it, which is what its zero gradient says.
        """
        zero = torch.zeros((), device=self.device)
        values = torch.stack([zero if value is None else value for value in self.values]).cpu().double()
        present = torch.tensor([value is not None for value in self.values], dtype=torch.float64)
        if ranks.world > 1:
            empty = (present.sum() == 0).double().reshape(1)
            total = ranks.sum(torch.cat([values, present, empty]))
            T = len(self.names)
            values, present = total[:T] / ranks.world, total[T : 2 * T]
            if total[-1] > 0:
                raise checks.no_losses_on_a_rank()
        index = [i for i, count in enumerate(present.tolist()) if count > 0]
        return PresentLosses(
            names=[self.names[i] for i in index],
            roots=[self.roots[i] for i in index],
            values=values[index],
        )


@dataclass
class PresentLosses:
    """The T losses that some rank has in this step.

    Attributes:
        names: of these losses.
        roots: where this rank's backward starts; None if only other ranks have the loss.
        values: [T], float64, CPU, averaged over the ranks.

    """

    names: list[str]
    roots: list[Root | None]
    values: Tensor


def name_losses(losses: Losses) -> NamedLosses:
    """Give every loss its name and check that it can be minimised.

    Raises:
        TypeError: not a mapping, sequence or 1-D tensor; a name or a loss of the wrong kind.
        ValueError: nothing there, a name twice, a loss that is no scalar or has no graph, other devices.

    """
    if isinstance(losses, Tensor):
        return _unstack(losses)
    pairs = _pairs(losses)
    names: list[str] = []
    for name, loss in pairs:
        if not isinstance(name, str):
            raise checks.name_kind(name)
        if name in names:
            raise checks.one_name_twice(name)
        names.append(name)
        if loss is not None:
            checks.scalar(name, loss)
    present = [loss for _, loss in pairs if loss is not None]
    if not pairs:
        raise checks.no_losses()
    for name, loss in pairs:
        if loss is not None:
            checks.same_device(name, loss.device, f"loss {names[0]!r}", present[0].device)
    tensors = [loss for _, loss in pairs]
    values = [None if loss is None else loss.detach() for loss in tensors]
    return NamedLosses(tuple(names), list(tensors), values)


def _pairs(losses: Any) -> list[tuple[Any, Any]]:
    if isinstance(losses, Mapping):
        return list(losses.items())
    if not isinstance(losses, Sequence) or isinstance(losses, (str, bytes)):
        raise checks.loss_kind(losses)
    return [
        item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)
        for i, item in enumerate(losses)
    ]


def _unstack(losses: Tensor) -> NamedLosses:
    """Single losses of a 1-D tensor, looking through the ``torch.stack`` that made it.

    Behind the stack each loss has a graph of its own, so one inf does not spoil the others' gradients.
    """
    if losses.dim() != 1:
        raise checks.loss_kind(losses)
    names = tuple(str(i) for i in range(len(losses)))
    if not names:
        raise checks.no_losses()
    if not losses.requires_grad:
        raise checks.no_graph("0")
    node = losses.grad_fn
    if node is not None and node.name() == "StackBackward0" and len(node.next_functions) == len(names):
        roots: list[Root | None] = []
        for name, (behind, number) in zip(names, node.next_functions, strict=True):
            if behind is None:
                raise checks.no_graph(name)
            roots.append(GradientEdge(behind, number))
    else:
        roots = list(losses.unbind())
    return NamedLosses(names, roots, list(losses.detach().unbind()))


def feature_tensors(features: Tensor | Iterable[Tensor] | None) -> list[Tensor]:
    """The features as a list of differentiable tensors, empty when there are none."""
    if features is None:
        return []
    tensors = [features] if isinstance(features, Tensor) else list(features)
    if not tensors:
        raise checks.no_features()
    for i, tensor in enumerate(tensors):
        checks.feature_tensor(i, tensor)
    return tensors


def parameters(params: Tensor | Iterable[Tensor] | None) -> list[Tensor]:
    """The shared parameters as a list of leaves, empty when there are none."""
    if params is None:
        return []
    tensors = [params] if isinstance(params, Tensor) else list(params)
    if not tensors:
        raise checks.no_features()
    for i, tensor in enumerate(tensors):
        checks.parameter(i, tensor)
    return tensors
