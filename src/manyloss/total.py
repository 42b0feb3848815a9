"""A scalar whose own ``backward()`` runs the step: for trainers that call ``backward`` themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manyloss.losses import Features, Losses, SharedParams, check, losses_present

if TYPE_CHECKING:
    from manyloss.step import MultiLoss


def total(
    multi: MultiLoss,
    losses: Losses,
    features: Features | None,
    shared_params: SharedParams | None,
    grad_scaler: Any,
    measure: bool,
) -> Tensor:
    """The plain sum of the losses, whose backward is a step of ``multi``; see ``MultiLoss.total``."""
    make = _not_compiled if torch.compiler.is_compiling() else _total
    return make(multi, losses, features, shared_params, grad_scaler, measure)


def _total(
    multi: MultiLoss,
    losses: Losses,
    features: Features | None,
    shared_params: SharedParams | None,
    grad_scaler: Any,
    measure: bool,
) -> Tensor:
    if not torch.is_grad_enabled():
        return _sum(losses_present(losses))
    if isinstance(shared_params, Iterator):
        shared_params = list(shared_params)
    if isinstance(losses, Mapping):
        losses = dict(losses)
    _refuse_search_for_unused()
    given = check(losses, features, shared_params)
    step = _Waiting(multi, losses, features, shared_params, grad_scaler, measure)
    present = [value for value in given.values if value is not None]
    start = torch.zeros((), device=present[0].device, requires_grad=True)  # what makes the sum require grad
    return cast(Tensor, _RunsTheStep.apply(_sum(present), start, step))  # type: ignore[no-untyped-call]


# A compiled trainer leaves its graph here; the compiler is imported only when this is called.
_not_compiled = torch._disable_dynamo(_total)  # type: ignore[attr-defined]


def _sum(values: list[Tensor]) -> Tensor:
    first, *others = [value.detach() for value in values]
    for value in others:
        first = first + value
    return first


class _Waiting:
    """A step that waits for its backward; it lets go of the graph once it ran."""

    def __init__(
        self,
        multi: MultiLoss,
        losses: Losses,
        features: Features | None,
        shared_params: SharedParams | None,
        grad_scaler: Any,
        measure: bool,
    ) -> None:
        self.multi = multi
        self.given: tuple[Losses, Features | None, SharedParams | None] | None = (
            losses,
            features,
            shared_params,
        )
        self.grad_scaler = grad_scaler
        self.measure = measure

    def run(self, arriving: Tensor) -> None:
        """One step, scaled by the gradient that arrives at the sum."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "multi.total was differentiated with create_graph=True, but a step writes .grad and has no "
                "derivative of its own: leave create_graph out, or use sum(losses) where you need it."
            )
        if self.given is None:
            raise RuntimeError(
                "This multi.total has run its step: a second backward() would take it twice. Compute the "
                "losses and multi.total(...) anew, or keep the graph with backward(retain_graph=True)."
            )
        losses, features, shared_params = self.given
        keep = _graph_is_kept()
        if not keep:
            self.given = None
        scaler = _Arriving(arriving.detach(), self.grad_scaler)
        result = self.multi.backward(
            losses,
            features,
            shared_params,
            grad_scaler=scaler,
            measure=self.measure,
            retain_graph=keep,
        )
        if result.skipped and scaler.guessed:
            self.multi.notices.once(
                "skips",
                f"A loss or a gradient is not finite. The losses came scaled by {scaler.number:g}, which is "
                "taken for a GradScaler: plain gradients were passed on so that it skips the step, and no "
                "method learned. If nothing skips such steps, the weights are spoiled now: pass "
                "grad_scaler=torch.amp.GradScaler(enabled=False) to multi.total, and they are errors.",
            )


class _Arriving:
    """What a GradScaler is to a step, made of the gradient that arrives at the sum.

    Without the scaler at hand, a factor other than 1 is taken for one: a step that is not finite is then
    passed on for it to skip. A factor of 0, or one that is not finite, leaves nothing to weigh.
    """

    def __init__(self, arriving: Tensor, grad_scaler: Any) -> None:
        self.arriving = arriving
        self.guessed = grad_scaler is None
        self.number = float(arriving) if self.guessed or not grad_scaler.is_enabled() else math.nan
        self.skips = self.number != 1.0 if self.guessed else math.isnan(self.number) or self.number == 0.0

    def is_enabled(self) -> bool:
        """Whether someone skips a step that is not finite."""
        return self.skips

    def scale(self, tensor: Tensor) -> Tensor:
        """Times what arrived."""
        return tensor * self.arriving


class _RunsTheStep(torch.autograd.Function):
    """The identity on a sum of losses; its backward takes the step and hands on nothing."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, start: Tensor, step: _Waiting) -> Tensor:  # noqa: ARG004
        ctx.step = step
        return value.clone()

    @staticmethod
    def backward(ctx: Any, arriving: Tensor) -> tuple[None, None, None]:
        ctx.step.run(arriving)
        return None, None, None


def _graph_is_kept() -> bool:
    """Whether the backward that runs was called with ``retain_graph=True``."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def _refuse_search_for_unused() -> None:
    """DDP that looks for unused parameters behind what its forward returns finds nothing behind the sum."""
    module: nn.Module | None = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if module is not None and module.find_unused_parameters and not module.static_graph:
        raise RuntimeError(
            "multi.total is called inside the forward of a DistributedDataParallel with "
            "find_unused_parameters=True, which looks for parameters behind what the forward returns and "
            "would find none behind this sum: return the losses from the forward and call multi.total after "
            "it, or set find_unused_parameters=False (static_graph=True where parameters stay unused)."
        )
