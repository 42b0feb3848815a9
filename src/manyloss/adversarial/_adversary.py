"""An auxiliary network that reads gradients, with the optimiser it owns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyloss import checks
from manyloss.precision import full_precision
from manyloss.restore import PutBack
from manyloss.state import InnerOptimizer, Method, OptimizerFactory


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
        checks.network(who, network)
        checks.positive(f"{who}_lr", lr)
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
            raise ValueError(
                f"{self.who} cannot read gradients of shape {list(gradients.shape)}, the shape of what they "
                f"belong to: {error} Give it the input size of the model whose gradients it reads."
            ) from error
        count = len(gradients)
        if isinstance(outputs, Tensor) and list(shape) == [count] and outputs.shape == (count, 1):
            outputs = outputs.squeeze(1)  # one logit per example may come with or without its axis
        return full_precision(checks.auxiliary_outputs(outputs, shape, self.who))

    def read_apart(self, gradients: Tensor) -> Tensor:
        """The gradients as the start of a graph of their own, in the type of the network's parameters."""
        apart = gradients.detach()
        return (apart.to(self.trained[0].dtype) if self.trained else apart).requires_grad_()

    def learn(self, gradients: Sequence[Tensor]) -> None:
        """One step of the network along its own gradients."""
        if not self.trained:
            return
        pairs = zip(self.trained, gradients, strict=True)
        try:
            self.inner.step(self.trained, [gradient.to(each.dtype) for each, gradient in pairs])
        finally:
            for parameter in self.trained:
                parameter.grad = None

    def remember(self) -> PutBack:
        """What puts the network's parameters and their optimiser back as they are now."""
        values = [parameter.detach().clone() for parameter in self.trained]
        inner = self.inner.tensors()

        def put_back() -> None:
            with torch.no_grad():
                for parameter, value in zip(self.trained, values, strict=True):
                    parameter.copy_(value)
            self.inner.load(inner)

        return put_back
