"""FAMO (Liu, Feng, Stone and Liu 2023, "FAMO: fast adaptive multitask optimization", Algorithm 1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manyloss import checks
from manyloss.linalg import vector
from manyloss.state import InnerOptimizer, OptimizerFactory, State
from manyloss.weighting._base import LossWeighting

SMALLEST = 1e-8


@dataclass
class FAMOState(State):
    """Logits, and the losses that the next ones are compared with (NaN where there are none)."""

    logits: list[float]
    last: list[float]


class FAMO(LossWeighting):
    """All losses fall at about the same relative rate, without any gradient of a single loss.

    With D_i = L_i - minimum_i + 1e-8 and z = softmax(logits): w_i = c z_i / D_i, c such that sum w = 1, which
    is a step of sum_i z_i log D_i. Then the logits follow Adam along z_i (r_i - sum_j z_j r_j) +
    weight_decay logit_i, r_i = log D_i before the step - log D_i after it: what fell fast loses weight.

    The losses after a step are taken to be those of the next step, on its batch, which costs nothing. For
    the published measure, call :meth:`observe` after the model's optimiser with the losses of the same batch.
    Scale as published: the weights sum to 1; use a learning rate T times the sum's to compare.

    Args:
        lr: of the own Adam.
        weight_decay: of the logits, 0 or more.
        minimum: least value of a loss: one number, or one per loss (mapping or sequence).
        optimizer: parameters -> Optimizer, in place of Adam.

    Raises:
        ValueError: a loss is not above its minimum.

    """

    name = "famo"
    accepts = "above 0"
    scale = "convex combination"
    search: ClassVar = {"lr": (0.001, 0.005, 0.025), "weight_decay": (1e-5, 1e-3)}
    learns = FAMOState
    state: FAMOState
    inner: InnerOptimizer

    def __init__(
        self,
        lr: float = 0.025,
        weight_decay: float = 1e-3,
        minimum: float | Mapping[str, float] | Sequence[float] = 0.0,
        *,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        checks.not_negative("weight_decay", weight_decay)
        for each in checks.each(minimum):
            checks.finite("minimum", each)
        self.weight_decay = weight_decay
        self.minimum = minimum
        self.inner = InnerOptimizer(lr, optimizer)

    def first_state(self, names: tuple[str, ...]) -> FAMOState:
        """Equal logits."""
        checks.per_loss("FAMO", "minimum", self.minimum, names)
        return FAMOState(logits=[0.0] * len(names), last=[math.nan] * len(names))

    def check(self, names: Sequence[str], values: Tensor) -> None:
        """Every loss is above its minimum."""
        minima = checks.per_loss("FAMO", "minimum", self.minimum, self.names or names)
        for name, value in zip(names, values.tolist(), strict=True):
            if not value > minima[name]:
                raise ValueError(
                    f"FAMO: the value of loss {name!r} is {value:g}, but the method takes the logarithm of "
                    f"what lies above minimum={minima[name]:g}: give a smaller minimum=."
                )

    def _distances(self, names: Sequence[str], values: Tensor) -> list[float]:
        minima = checks.per_loss("FAMO", "minimum", self.minimum, self.names or names)
        return [value - minima[name] + SMALLEST for name, value in zip(names, values.tolist(), strict=True)]

    def _step(
        self, logits: list[float], inner: InnerOptimizer, at: Sequence[int], D: Sequence[float]
    ) -> None:
        """Move the logits of the losses that are known before and after."""
        last = self.state.last
        known = [
            (i, math.log(last[i] / now)) for i, now in zip(at, D, strict=True) if not math.isnan(last[i])
        ]
        if not known:
            return
        moving = [i for i, _ in known]
        z = _softmax([logits[i] for i in moving])
        mean = sum(share * fall for share, (_, fall) in zip(z, known, strict=True))
        slopes = [
            share * (fall - mean) + self.weight_decay * logits[i]
            for share, (i, fall) in zip(z, known, strict=True)
        ]
        inner.step_each(logits, slopes, moving)

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """The weights with the logits that the step before has led to. [T]"""
        at, D = self.positions(names), self._distances(names, values)
        logits = list(self.state.logits)
        self._step(logits, copy.deepcopy(self.inner), at, D)
        shares = [share / d for share, d in zip(_softmax([logits[i] for i in at]), D, strict=True)]
        total = sum(shares)
        return [share / total for share in shares]

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """Keep the new logits, and these losses."""
        at, D = self.positions(names), self._distances(names, values)
        self._step(self.state.logits, self.inner, at, D)
        for i, d in zip(at, D, strict=True):
            self.state.last[i] = d

    def observe(self, losses: Mapping[str, Tensor | float]) -> None:
        """Take in the losses after the model's step, on the same batch (Algorithm 1).

        Args:
            losses: by name; all of the step, or a part.

        """
        names = [name for name in self.names or () if name in losses]
        values = vector([float(losses[name]) for name in names])
        self.check(names, values)
        at = self.positions(names)
        self._step(self.state.logits, self.inner, at, self._distances(names, values))
        for i in at:
            self.state.last[i] = math.nan


def _softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]
