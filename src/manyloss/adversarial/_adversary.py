"""An auxiliary network that reads gradients, with the optimiser it owns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial._reading import widened
from manyloss.distributed import ALONE, Ranks, Setting, ranks_of
from manyloss.state import InnerOptimizer, Method, OptimizerFactory


class Team:
    """The ranks of a method, asked for at its first step, when torch.distributed is up."""

    def __init__(self, setting: Setting = "auto") -> None:
        self.setting = setting
        self.ranks: Ranks = ALONE
        self.asked = False

    def meet(self, *networks: nn.Module) -> None:
        """At the first step, find the other ranks and start the auxiliary networks alike on all of them."""
        if self.asked:
            return
        self.asked = True
        self.ranks = ranks_of(self.setting)
        for network in networks:
            self.ranks.share_parameters([*network.parameters(), *network.buffers()])

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks, in one message."""
        if self.ranks.world == 1 or not tensors:
            return list(tensors)
        flat = self.ranks.mean(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def all_finite(self, *tensors: Tensor) -> bool:
        """Whether no rank holds a NaN or an infinity, so that all of them decide alike."""
        largest = torch.nn.utils.get_total_norm(
            [each.detach() for each in tensors], norm_type=torch.inf
        )  # one pass; NaN stays NaN
        bad = (~largest.isfinite()).float()
        return not bool(self.ranks.sum(bad).item())


def _adam(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Plain Adam in one kernel, where there is one: an auxiliary network is as large as a model."""
    fused = all(each.device.type in ("cpu", "cuda") and each.is_floating_point() for each in parameters)
    return torch.optim.Adam(parameters, lr=lr, fused=fused or None)


class Adversary(Method):
    """`network` reads gradients and is trained by the optimiser kept here.

    Its learning rate follows the main schedule (methods.md: all learning parts do). Its gradients never meet
    the model's: they are read with `autograd.grad`.
    """

    def __init__(self, network: nn.Module, lr: float, optimizer: OptimizerFactory | None, who: str) -> None:
        super().__init__()
        self.network = network
        self.who = f"the {who}"
        self.trained: list[Tensor] = [each for each in network.parameters() if each.requires_grad]
        self.inner: InnerOptimizer = InnerOptimizer(lr, optimizer or (lambda given: _adam(given, lr)))

    def forward(self, gradients: Tensor, shape: Sequence[int]) -> Tensor:
        """Read per-example gradients [N, ...]; the outputs must have `shape`."""
        try:
            outputs = self.network(gradients)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise checks.auxiliary_failed(self.who, gradients.shape, error) from error
        count = len(gradients)
        if isinstance(outputs, Tensor) and list(shape) == [count] and outputs.shape == (count, 1):
            outputs = outputs.squeeze(1)  # one logit per example may come with or without its axis
        outputs = checks.auxiliary_outputs(outputs, shape, self.who)
        return widened(outputs)

    def cast(self, gradients: Tensor) -> Tensor:
        """The same gradients in the type of the network's parameters."""
        return gradients.to(self.trained[0].dtype) if self.trained else gradients

    def learn(self, gradients: Sequence[Tensor]) -> None:
        """One step of the network along its own gradients."""
        if self.trained:
            self.inner.step(self.trained, gradients)
