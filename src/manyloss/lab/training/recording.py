"""What is recorded of single steps: losses, weights, and the length and cosines of every loss's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from manyloss import linalg
from manyloss.diagnostics.purity import purity_of
from manyloss.diagnostics.running import RunningCosines
from manyloss.lab.problem import Features, Problem
from manyloss.lab.training.state import Record, State

#: Loss -> its gradient at each of several places, and the places.
Measured = tuple[Mapping[str, list[Tensor]], Sequence[Tensor]]

#: The name of a curve: what GradDrop passes of the gradients at the features, or would pass (figure 3c).
PASSED = "share of the gradients that GradDrop passes"


class Recorder:
    """Measures the unweighted gradient of each loss, for each arm alike, and leaves no trace in the training.

    At the shared parameters where the problem has them, else at the features.

    Args:
        problem: says what the losses are (`Problem.measured_losses`) and where they are shared.
        model: the network that trains.
        device: where it is.
        fast: its parts may be compiled; a compiled graph cannot be gone through once per loss.

    """

    def __init__(self, problem: Problem, model: nn.Module, device: torch.device, *, fast: bool) -> None:
        self.problem, self.model, self.device, self.fast = problem, model, device, fast
        self.shared_params = problem.shared_params(model)

    @property
    def measured_at(self) -> str:
        """Where gradients are measured, as the result calls it."""
        return "shared_params" if self.shared_params else "features"

    def record(self, record: Record, state: State, measured: Measured | None) -> Record:
        """A step's record, with the gradients of its batch; ``state`` takes their cosines in."""
        record |= {"norms": None, "cosines": None, "names": list(record["losses"])}
        if measured is None:
            return record
        rows, places = measured
        names = list(rows)
        gradients = [torch.stack(parts) for parts in zip(*rows.values(), strict=True)]  # [T, ...] each
        gramian = linalg.gramian(gradients)
        norms, cosines = gramian.diagonal().sqrt(), linalg.cosines(gramian)
        record |= {
            "names": names,
            "norms": dict(zip(names, norms.tolist(), strict=True)),
            "cosines": [[round(c, 6) for c in row] for row in cosines.tolist()],
        }
        if not self.shared_params and len(names) > 1:
            purity = purity_of(gradients, places)
            if purity is not None:
                record["passed"] = purity.passed
                state.passed.append((state.epoch, purity.passed))
        self._keep_cosines(state, names, torch.where(norms[:, None] * norms > 0, cosines, torch.nan))
        return record

    def _keep_cosines(self, state: State, names: Sequence[str], cosines: Tensor) -> None:
        """[T, T], NaN beside a gradient of zero."""
        every = self.problem.loss_names
        if state.cosines is None:
            state.cosines = RunningCosines.empty(len(every))
        state.cosines.epoch_ended = state.epoch > 0
        state.cosines.add([every.index(name) for name in names], cosines)

    def measure(self, features: Features | None, losses: Mapping[str, Tensor | None]) -> Measured:
        """The gradients of losses whose graph is still there, and goes on being."""
        if self.shared_params:
            places = list(self.shared_params)
        else:
            places = [features] if isinstance(features, Tensor) else list(features or ())
        return {name: _gradient(loss, places) for name, loss in losses.items() if loss is not None}, places

    def measure_apart(self, inputs: Any, targets: Any) -> Measured | None:
        """The gradients of a batch by a forward pass of its own; None where a problem has none to measure.

        It leaves no trace: random state and buffers are put back.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        eager = torch.compiler.set_stance("force_eager") if self.fast else nullcontext()
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), eager:
            try:
                found = self.problem.measured_losses(self.model, inputs, targets)
                return None if found is None else self.measure(*found)
            finally:
                with torch.no_grad():
                    for buffer, value in buffers:
                        buffer.copy_(value)


class Measuring:
    """Measures a step's losses between its forward and its backward pass, if anyone calls it there.

    Attributes:
        measured: what was measured; None before that.
        seconds: how long it took.

    """

    def __init__(self, recorder: Recorder, clock: Callable[[], float]) -> None:
        self.recorder, self.clock = recorder, clock
        self.measured: Measured | None = None
        self.seconds = 0.0

    def __call__(self, features: Features | None, losses: Mapping[str, Tensor | None]) -> None:
        """Measure."""
        begin = self.clock()
        self.measured = self.recorder.measure(features, losses)
        self.seconds = self.clock() - begin


def _gradient(loss: Tensor, places: Sequence[Tensor]) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(place) for place in places]
    found = torch.autograd.grad(loss, list(places), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, places, strict=True)]
