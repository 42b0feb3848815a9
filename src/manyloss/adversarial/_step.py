"""One batch on its way through the networks: what is read, checked over the ranks, and written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from manyloss import checks, graph
from manyloss.adversarial._votes import Votes
from manyloss.adversarial.result import Notice
from manyloss.errors import NotFiniteError
from manyloss.input_gradients import Loss, as_input, input_gradient, mean_loss
from manyloss.precision import full_precision
from manyloss.scaling import LossScale


class SkipStep(Exception):  # noqa: N818  # no error: it takes a step to where it is skipped
    """Something is not finite, and a GradScaler will skip the step."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.notice = Notice(f"{what} is not finite; the GradScaler skips this step.")


@dataclass
class Step:
    """One call of `ModelMethod.backward`, once its input was checked.

    Attributes:
        method: the name of the method, for errors.
        x: [B, ...], where the graph of this step starts.
        y: what the loss compares the outputs with; class numbers [B] when `classifies`.
        loss: (outputs, y) -> one number, the mean over the batch.
        classifies: the outputs must be logits [B, C].
        parameters: of the model, those that are trained.
        scale: of a GradScaler.
        votes: of the ranks that train together.
        undo: what is called when the step fails.
        outputs: of the model that is trained.
        task_loss: J of the model that is trained.
        learned: the gradients of the adversary's parameters, for its step once all is written.
        written: `.grad` has been written.

    """

    method: str
    x: Tensor
    y: Tensor
    loss: Loss
    classifies: bool
    parameters: Sequence[Tensor]
    scale: LossScale
    votes: Votes
    undo: ExitStack = field(default_factory=ExitStack)
    outputs: Tensor = field(init=False)
    task_loss: Tensor = field(init=False)
    learned: Sequence[Tensor] | None = None
    written: bool = False

    # ------------------------------------------------------------------ forward

    def run(self, network: nn.Module, who: str) -> tuple[Tensor, Tensor]:
        """Outputs and loss J of a network on the batch, both checked; J in full precision."""
        outputs: Tensor = network(self.x)
        if self.classifies:
            checks.logits(outputs, len(self.x), who)
            checks.labels_in_range(self.y, outputs.shape[1])
        return outputs, mean_loss(self.loss, outputs, self.y, who)

    def run_model(self, network: nn.Module, who: str) -> tuple[Tensor, Tensor]:
        """`run` of the model that is trained."""
        self.outputs, self.task_loss = self.run(network, who)
        return self.outputs, self.task_loss

    def beside(self, loss: Loss | None = None) -> Step:
        """The same batch as the start of another graph, for a network beside the model."""
        return replace(self, x=as_input(self.x), loss=loss or self.loss)

    # ------------------------------------------------------------------ read

    def input_gradients(self, value: Tensor, who: str, *, create_graph: bool) -> Tensor:
        """grad_x of each example's own loss, [B, ...].

        Sum reduction: the mean's 1/B would change what the BatchNorm of a network that reads them sees.

        Raises:
            NoDoubleBackwardError: `create_graph`, and something on the way can be differentiated once only.

        """
        if create_graph:
            self.refuse_double_backward(value, who)
        with graph.reads_only([value]):
            gradient = input_gradient(self.scale.apply(value), self.x, who, create_graph=create_graph)
        if create_graph:
            graph.refuse_missing_derivatives([gradient], self.method, who)
        return self.per_example(gradient)

    def per_example(self, gradient: Tensor) -> Tensor:
        """From the gradient of the scaled mean over the batch to that of each example's own loss."""
        return self.scale.remove(gradient) * len(gradient)

    def refuse_double_backward(self, value: Tensor, who: str) -> None:
        """Refuse what lies between the inputs and a value of theirs, before it is differentiated twice."""
        nodes = graph.between([graph.edge_of(value)], [graph.edge_of(self.x)])
        graph.refuse_double_backward(nodes, self.method, who)

    def means(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks."""
        return self.votes.ranks.mean_each(gradients)

    def gradients(self, value: Tensor, tensors: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
        """Gradients of a number that stay outside every `.grad`; zeros at what it does not reach."""
        with torch.autocast(value.device.type, enabled=False):
            found = torch.autograd.grad(
                self.scale.apply(value),
                list(tensors),
                retain_graph=keep,
                allow_unused=True,
                materialize_grads=True,
            )
        return [self.scale.remove(gradient) for gradient in found]

    def require_finite(self, what: str, *tensors: Tensor) -> None:
        """Go no further with NaN or infinity on any of the ranks.

        Raises:
            SkipStep: a GradScaler will skip the step.
            NotFiniteError: nobody would.

        """
        if self.votes.all_finite(*tensors):
            return
        if self.scale.skips:
            raise SkipStep(what)
        raise NotFiniteError(
            f"{what} holds NaN or infinite values; nothing was written. Lower the learning rate, or pass "
            "grad_scaler= when training in float16."
        )

    # ------------------------------------------------------------------ write

    def write(self, objective: Tensor) -> None:
        """The one ordinary backward of the step, into `.grad`, which must be finite afterwards."""
        self.votes.close()  # the others are in their backward, where DistributedDataParallel waits for this
        self._backward(objective)
        self.written = True
        written = [_local(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        self.require_finite("A gradient of the model's parameters", *written)

    def pass_on(self) -> None:
        """Let a GradScaler see that the step is to be skipped."""
        if not self.written:
            self._backward(self.task_loss * torch.nan)

    def _backward(self, objective: Tensor) -> None:
        with torch.autocast(objective.device.type, enabled=False):
            torch.autograd.backward(self.scale.apply(full_precision(objective)))


def _local(gradient: Tensor) -> Tensor:
    """The shard on this rank of a gradient that is spread over several."""
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient
