"""What every method has in common: state that is learned, saved, reloaded and continued bit by bit."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manyloss import checks
from manyloss.distributed import ALONE, Ranks

OptimizerFactory = Callable[[list[Tensor]], Optimizer]


class InnerOptimizer:
    """The optimiser that a method owns for the numbers it learns (loss weights, log-variances, gammas).

    Args:
        lr: learning rate of plain Adam, used when ``optimizer`` is None.
        optimizer: parameters -> Optimizer, for anything else.

    The learning rate follows the main schedule once :meth:`follow` is called with the fraction of the
    training that is done: lr * (1 - fraction)^0.9 (GREAT, supplement).

    """

    def __init__(self, lr: float, optimizer: OptimizerFactory | None = None) -> None:
        checks.positive("lr", lr)
        self.lr = lr
        self.factory = optimizer
        self.fraction = 0.0
        self.optimizer: Optimizer | None = None
        self._pending: dict[str, Any] | None = None

    def step(self, parameters: list[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Move ``parameters`` once; a parameter whose gradient is None keeps its value and its moments."""
        if self.optimizer is None:
            self._build(parameters)
        optimizer = cast(Optimizer, self.optimizer)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1.0 - self.fraction) ** 0.9
        with torch.enable_grad():
            optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    def follow(self, fraction: float) -> None:
        """Let the learning rate follow the main schedule."""
        self.fraction = fraction

    def _build(self, parameters: list[Tensor]) -> None:
        make = self.factory or (lambda params: torch.optim.Adam(params, lr=self.lr))
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        if self._pending is not None:
            optimizer.load_state_dict(copy.deepcopy(self._pending))
            self._pending = None
        self.optimizer = optimizer

    def state(self) -> dict[str, Any]:
        """Everything that decides the next step."""
        inner = self._pending if self.optimizer is None else self.optimizer.state_dict()
        return {"fraction": self.fraction, "optimizer": inner}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the optimiser itself is made anew at the next step."""
        self.fraction = state["fraction"]
        self.optimizer = None
        self._pending = copy.deepcopy(state["optimizer"])


def _laid_out_as(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """The gradient with the parameter's strides: a fused optimiser reads both memories side by side."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class Method(nn.Module):
    """Base of every weighting, aggregator and penalty.

    What a method learns lies in ``memory`` (nested dicts of tensors and numbers, keyed by loss name), its
    random numbers come from ``generator`` and its own optimiser is ``inner``. All three travel in
    ``state_dict`` as one block of bytes, so that a fresh object continues bit by bit; ``parameters()`` stays
    empty, since nothing here is for the user's optimiser.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[str, Any] = {}
        self.generator: torch.Generator | None = None
        self.inner: InnerOptimizer | None = None
        self.ranks: Ranks = ALONE

    def seed_with(self, seed: int | None) -> None:
        """Own a generator; without a seed one is drawn from torch's global generator."""
        if seed is None:
            seed = int(torch.randint(2**62, ()).item())
        self.generator = torch.Generator().manual_seed(seed)

    def bind(self, names: tuple[str, ...]) -> None:
        """Check the settings against the names of the losses, once, before the first step.

        Raises:
            ValueError: a setting names or counts other losses.

        """

    def set_progress(self, fraction: float) -> None:
        """Tell which fraction of the training is done, in [0, 1]; 0 until it is called."""
        checks.progress(fraction)
        if self.inner is not None:
            self.inner.follow(fraction)

    def end_epoch(self) -> None:
        """Tell that an epoch is over, for methods that use epoch means."""

    def get_extra_state(self) -> bytes:
        """The learned state as bytes (torch.save of tensors and plain numbers)."""
        state = {
            "method": type(self).__name__,
            "memory": self.memory,
            "generator": None if self.generator is None else self.generator.get_state(),
            "inner": None if self.inner is None else self.inner.state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def set_extra_state(self, state: bytes) -> None:
        """Take over what :meth:`get_extra_state` gave.

        Raises:
            ValueError: the state belongs to another method.

        """
        loaded = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        checks.same_method(type(self).__name__, loaded["method"])
        self.memory = loaded["memory"]
        if self.generator is not None and loaded["generator"] is not None:
            self.generator.set_state(loaded["generator"])
        if self.inner is not None and loaded["inner"] is not None:
            self.inner.load(loaded["inner"])
