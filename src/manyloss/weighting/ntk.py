"""NTK weights for PINNs (Wang, Yu and Perdikaris 2022, "When and why PINNs fail to train", Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manyloss import checks
from manyloss.plan import Needs
from manyloss.state import State
from manyloss.weighting._base import LossWeighting


@dataclass
class NTKState(State):
    """The weights of the last measurement; ones before it."""

    weights: list[float]


class NTKWeights(LossWeighting):
    """Weights that give all residuals the same mean rate of convergence, from the neural tangent kernel.

    w_i = sum_j tr(K_jj) / tr(K_ii), tr(K_ii) = sum_n ||d r_i(x_n) / d theta||^2 over the points x_n of the
    residual r_i of loss i. The residuals are not in the losses, so call :meth:`measure` with them, every
    hundred steps or so as the paper does; between, the weights stay as they are.

    Args:
        probes: backward passes per loss in a measurement: tr(K) is the mean of ||d (v . r) / d theta||^2 over
            as many random signs v (Hutchinson's estimate). None: one pass per point, exact.
        seed: of the own generator; drawn from torch's when None.

    """

    name = "ntk"
    needs = Needs()
    scale = "free"
    learns = NTKState
    state: NTKState

    def __init__(self, probes: int | None = 8, seed: int | None = None) -> None:
        super().__init__()
        if probes is not None:
            checks.whole("probes", probes, 1)
        self.probes = probes
        self.seed_with(seed)
        self._measured: dict[str, float] = {}  # before the first step, when the losses are not known yet

    def first_state(self, names: tuple[str, ...]) -> NTKState:
        """What was measured already, or ones."""
        return NTKState([self._measured.get(name, 1.0) for name in names])

    def weigh(self, names: Sequence[str], values: Tensor) -> list[float]:
        """The measured weights. [T]"""
        return [self.state.weights[i] for i in self.positions(names)]

    def measure(
        self, residuals: Mapping[str, Tensor], parameters: nn.Module | Iterable[Tensor]
    ) -> dict[str, float]:
        """Set the weights from the residuals of a batch; their graph is kept.

        Args:
            residuals: per loss, what its mean square is taken of: any shape, with its graph.
            parameters: theta: the model, or its parameters.

        Returns:
            the weights by name.

        Raises:
            ValueError: a residual does not depend on the parameters, or belongs to no loss.

        """
        if isinstance(parameters, nn.Module):
            parameters = parameters.parameters()
        theta = [each for each in parameters if each.requires_grad]
        for name in residuals:
            if self.names is not None:
                checks.one_of("residuals of NTKWeights", name, self.names)
        traces = {name: self._trace(name, each, theta) for name, each in residuals.items()}
        total = sum(traces.values())
        self._measured = {name: total / trace for name, trace in traces.items()}
        if self.names is not None:
            for i, name in enumerate(self.names):
                self.state.weights[i] = self._measured.get(name, self.state.weights[i])
        return dict(self._measured)

    def _trace(self, name: str, residual: Tensor, theta: list[Tensor]) -> float:
        """tr(K_ii), or its estimate."""
        N = residual.numel()
        signs: Iterable[Tensor]
        if self.probes is None:
            signs = torch.eye(N, device="cpu").unbind()
        else:
            draws = torch.rand(self.probes, N, generator=self.generator, device="cpu")
            signs = torch.where(draws < 0.5, -1.0, 1.0).unbind()
        squares = []
        for v in signs:
            grads = torch.autograd.grad(
                [residual],
                theta,
                [v.view(residual.shape).to(residual.device, residual.dtype)],
                retain_graph=True,
                allow_unused=True,
            )
            found = [grad.detach().double().square().sum().cpu() for grad in grads if grad is not None]
            squares.append(float(torch.stack(found).sum()) if found else 0.0)
        trace = sum(squares) / (1 if self.probes is None else self.probes)
        if not trace > 0.0:
            raise ValueError(
                f"NTKWeights: the residual of loss {name!r} does not depend on the parameters; pass the "
                "residual itself, before it is squared and without detach(), and the model's parameters."
            )
        return trace
