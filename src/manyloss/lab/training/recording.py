"""What is recorded of single steps: losses, weights, and the length and cosines of every loss's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from manyloss import linalg
from manyloss.diagnostics.purity import purity_of
from manyloss.diagnostics.running import RunningCosines
from manyloss.lab.problem import Problem
from manyloss.lab.training.state import Record, State

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

    def record(self, record: Record, state: State, inputs: Any, targets: Any) -> Record:
        """A step's record, with the gradients of this batch; ``state`` takes their cosines in."""
        record |= {"norms": None, "cosines": None, "names": list(record["losses"])}
        measured = self._measure(inputs, targets)
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

    def _measure(
        self, inputs: Any, targets: Any
    ) -> tuple[Mapping[str, list[Tensor]], Sequence[Tensor]] | None:
        """Loss -> tensors, and where they are taken.

        The forward pass of its own leaves no trace: random state and buffers are put back.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        eager = torch.compiler.set_stance("force_eager") if self.fast else nullcontext()
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), eager:
            try:
                measured = self.problem.measured_losses(self.model, inputs, targets)
                if measured is None:
                    return None
                features, found = measured
                if self.shared_params:
                    places = list(self.shared_params)
                else:
                    places = [features] if isinstance(features, Tensor) else list(features or ())
                rows = {name: _gradient(loss, places) for name, loss in found.items() if loss is not None}
                return rows, places
            finally:
                with torch.no_grad():
                    for buffer, value in buffers:
                        buffer.copy_(value)


def _gradient(loss: Tensor, places: Sequence[Tensor]) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(place) for place in places]
    found = torch.autograd.grad(loss, list(places), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, places, strict=True)]
