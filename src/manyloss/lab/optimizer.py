"""What a row of a table may change about the user's own optimiser, whatever its method is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

#: As options of any method: ``gradnorm:alpha=0.5:optimizer.lr_factor=3``.
LR_FACTOR = "optimizer.lr_factor"
WEIGHT_DECAY = "optimizer.weight_decay"
DEFAULTS: Mapping[str, Any] = {LR_FACTOR: 1.0, WEIGHT_DECAY: None}


@dataclass(frozen=True)
class OptimizerSettings:
    """A factor of every learning rate, and a weight decay in place of the optimiser's own (None keeps it).

    Raises:
        ValueError: a factor that is not above 0, a weight decay below 0.

    """

    lr_factor: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.lr_factor) or self.lr_factor <= 0:
            raise ValueError(f"{LR_FACTOR} must be a number above 0, got {self.lr_factor!r}.")
        if self.weight_decay is not None and (not _is_number(self.weight_decay) or self.weight_decay < 0):
            raise ValueError(
                f"{WEIGHT_DECAY} must be a number, 0 or above, or none, got {self.weight_decay!r}."
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> OptimizerSettings:
        """From the options of an arm."""
        return cls(options[LR_FACTOR], options[WEIGHT_DECAY])

    @property
    def text(self) -> str:
        """As options of an arm; nothing for what is as it was."""
        now = {LR_FACTOR: self.lr_factor, WEIGHT_DECAY: self.weight_decay}
        return "".join(f":{name}={value}" for name, value in now.items() if value != DEFAULTS[name])

    def apply(self, optimizer: Optimizer) -> None:
        """Change an optimiser in place.

        The factor holds during its steps only, so that any schedule goes on as it was written. Parameters
        that were kept from weight decay (beside others that have some) stay so.
        """
        if self.weight_decay is not None:
            decays = [group for group in optimizer.param_groups if group.get("weight_decay")]
            for group in decays or optimizer.param_groups:
                group["weight_decay"] = self.weight_decay
        if self.lr_factor != 1:
            scale_steps(optimizer, lambda: self.lr_factor)


def scale_steps(optimizer: Optimizer, factor: Callable[[], float]) -> None:
    """Multiply every learning rate with ``factor()`` during each step, and put it back behind it."""
    before: list[Any] = []

    def scale(optimizer: Optimizer, *_: Any) -> None:
        now = factor()
        before[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * now

    def put_back(optimizer: Optimizer, *_: Any) -> None:
        for group, lr in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = lr

    optimizer.register_step_pre_hook(scale)
    optimizer.register_step_post_hook(put_back)


def ramp(optimizer: Optimizer, steps: int) -> None:
    """Let the learning rate of an Adam grow linearly over its first ``steps`` steps.

    Adam itself counts its steps, so that a resumed training goes on where it was.
    """

    def factor() -> float:
        done = max((float(state["step"]) for state in optimizer.state.values()), default=0.0)
        return min(1.0, (done + 1) / steps)

    scale_steps(optimizer, factor)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
