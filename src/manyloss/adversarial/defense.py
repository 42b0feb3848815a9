"""GREAT as a defense (Sinha et al. 2018, section 2.1 and Algorithm 1): input gradients that do not tell the
class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks, graph
from manyloss.adversarial._adversary import Adversary
from manyloss.adversarial._base import ModelMethod
from manyloss.adversarial._step import Step
from manyloss.adversarial._watch import gradient_warnings, root_mean_square, share, zero_share
from manyloss.adversarial.result import DefenseResult
from manyloss.distributed import Setting
from manyloss.input_gradients import Loss, input_gradient
from manyloss.precision import full_precision
from manyloss.restore import buffers_restored
from manyloss.schedule import learning_rate_multiplier
from manyloss.state import OptimizerFactory


def greace(logits: Tensor, y: Tensor, similarity: Tensor, beta: float, kind: str, loss: Loss) -> Tensor:
    """The GREACE loss (eq. 6), a mean over the batch.

    literal: the surrogate loss + beta sum_{k != y} s_k z_k, whose logit gradient is that of the loss plus
    beta s_k. reweighted: log(1 + beta s_k) is added to the negative logits, which is bounded and does not
    make logits drift.

    Args:
        logits: z, [B, C].
        y: int64 [B].
        similarity: s, [B, C], the auxiliary's softmax.
        beta: weight.
        kind: "literal" or "reweighted".
        loss: (logits, y) -> one number.

    """
    negative = similarity.detach().to(logits.dtype) * (1 - F.one_hot(y, logits.shape[1]).to(logits.dtype))
    if kind == "literal":
        return loss(logits, y) + beta * (negative * logits).sum(1).mean()
    return loss(logits + torch.log1p(beta * negative), y)


class GradientDefense(ModelMethod[DefenseResult]):
    """Trains a classifier whose input gradients an auxiliary classifier cannot tell apart by class.

    `result = method.backward(x, y)` fills the model's `.grad`; the user's optimiser steps;
    `set_progress(epoch/epochs)` drives alpha and beta = max (1 - m) and the auxiliary's rate lr m, m = (1 -
    epoch/epochs)^0.9 (supplement). GREAT is beta_max=0, GREACE is alpha_max=0, GRE(AT+CE) is both.

    Departures from the paper: line 6's sign (eq. 7's max is a slip). Such defenses tend to mask gradients:
    judge them with `manyloss.robustness.evaluate`.

    Args:
        model: x [B, ...] in pixel units -> logits [B, C], with any normalisation inside.
        auxiliary: gradients shaped like x -> [B, C]; `networks.leaky(model)` makes one.
        alpha_max: what alpha, the weight of the reversed gradient, grows to.
        beta_max: what beta, the weight of GREACE, grows to.
        greace: "literal" is eq. 6, "reweighted" a bounded relative of it (`greace()` above).
        mask: "true_class" reads g = grad_x through the true class's logit only, ((p - 1_y) o 1_y), with p
            attached; "detached" the same with p constant; "none" the whole loss gradient.
        simultaneous: both networks use one pass through the auxiliary; False trains it first and reads it
            again.
        auxiliary_lr: of plain Adam.
        optimizer: parameters -> Optimizer, for anything else.
        loss: (logits, y) -> one number, the mean over the batch.
        input_range: what x must lie in; None leaves it unchecked.
        distributed: "auto" trains together with the other ranks when torch.distributed runs; False alone.

    Raises:
        TypeError, ValueError: a setting is of another kind, or has a value that it cannot have; it is named.

    """

    adversary: Adversary

    def __init__(
        self,
        model: nn.Module,
        auxiliary: nn.Module,
        *,
        alpha_max: float = 1.0,
        beta_max: float = 2.0,
        greace: str = "literal",
        mask: str = "true_class",
        simultaneous: bool = True,
        auxiliary_lr: float = 1e-3,
        optimizer: OptimizerFactory | None = None,
        loss: Loss = F.cross_entropy,
        input_range: tuple[float, float] | None = (0.0, 1.0),
        distributed: Setting = "auto",
    ) -> None:
        checks.network("model", model)
        checks.one_of("greace", greace, ("literal", "reweighted"))
        checks.one_of("mask", mask, ("true_class", "none", "detached"))
        checks.not_negative("alpha_max", alpha_max)
        checks.not_negative("beta_max", beta_max)
        checks.flag("simultaneous", simultaneous)
        super().__init__(
            loss=loss,
            input_range=input_range,
            distributed=distributed,
            adversary=Adversary(auxiliary, auxiliary_lr, optimizer, "auxiliary"),
        )
        self.model = model
        self.alpha_max, self.beta_max = alpha_max, beta_max
        self.greace, self.mask, self.simultaneous = greace, mask, simultaneous
        self._progress_set = False

    @property
    def trained(self) -> nn.Module:
        """The model."""
        return self.model

    @property
    def auxiliary(self) -> nn.Module:
        """The network that classifies gradients."""
        return self.adversary.network

    @property
    def differentiated_once(self) -> Sequence[nn.Module]:
        """The auxiliary network."""
        return (self.auxiliary,)

    @property
    def alpha(self) -> float:
        """Weight of the reversed gradient now."""
        return self.alpha_max * self._ramp

    @property
    def beta(self) -> float:
        """Weight of GREACE now."""
        return self.beta_max * self._ramp

    @property
    def _ramp(self) -> float:
        """1 - m, with m the multiplier that the auxiliary's learning rate follows."""
        return 1.0 - learning_rate_multiplier(self.adversary.inner.fraction)

    def set_progress(self, fraction: float) -> None:
        """Tell how much of the training is done, epoch / epochs in [0, 1]."""
        super().set_progress(fraction)
        self._progress_set = True

    def _classifies(self, loss: Loss) -> bool:
        return True

    def _step(self, step: Step) -> DefenseResult:
        alpha, beta, y, adversary = self.alpha, self.beta, step.y, self.adversary
        logits, task_loss = step.run_model(self.model, "the model")  # [B, C], line 3
        g = self._masked_gradient(step, create_graph=alpha > 0)  # [B, ...], line 4
        step.require_finite("The loss or its input gradient", task_loss, g)

        seen = adversary.read_apart(g)
        auxiliary_logits, auxiliary_loss = self._read(seen, logits, y)  # line 5
        through = self.simultaneous and alpha > 0
        gradients = step.gradients(auxiliary_loss, [*adversary.trained, *([seen] if through else [])])
        step.require_finite("The auxiliary's loss or gradient", auxiliary_loss, *gradients)
        count = len(adversary.trained)
        own, reaching = step.means(gradients[:count]), gradients[count:]
        similarity = auxiliary_logits.detach().softmax(1)
        if self.simultaneous:
            step.learned = own  # line 6, once all is written: everything else was read before it anyway
        else:
            step.undo.callback(adversary.remember())
            adversary.learn(own)  # line 6
            torch.clear_autocast_cache()  # it holds the weights from before the auxiliary's step
            with buffers_restored(self.auxiliary):
                second_logits, second_loss = self._read(seen, logits, y)
                reaching = step.gradients(second_loss, [seen]) if alpha > 0 else []
            step.require_finite("The auxiliary's second loss or gradient", second_loss, *reaching)
            similarity = second_logits.detach().softmax(1)

        objective = task_loss
        if beta > 0:  # line 8
            objective = greace(full_precision(logits), y, similarity, beta, self.greace, step.loss)
        surrogate = objective
        for reached in reaching:  # line 7: the reversed gradient, sent back
            surrogate = surrogate - alpha * (reached.to(g.dtype) * g).sum()
        step.write(surrogate)  # line 9 is the user's optimiser
        return self._result(
            step,
            objective=(objective - alpha * auxiliary_loss).detach(),
            auxiliary_loss=auxiliary_loss.detach(),
            **self._watched(logits, y, auxiliary_logits, g),
        )

    def _masked_gradient(self, step: Step, *, create_graph: bool) -> Tensor:
        """Line 4: grad_x through the masked logits, per example, [B, ...]."""
        logits, task_loss = step.outputs, step.task_loss
        twice = create_graph and self.mask != "detached"
        if create_graph:
            step.refuse_double_backward(task_loss if twice else logits, "the model")
        with graph.reads_only([task_loss]), torch.autocast(step.x.device.type, enabled=False):
            (residual,) = torch.autograd.grad(  # p - 1_y for cross-entropy, [B, C]
                step.scale.apply(task_loss), logits, create_graph=twice, retain_graph=True
            )
            if self.mask != "none":
                residual = residual * F.one_hot(step.y, logits.shape[1]).to(residual.dtype)
            gradient = input_gradient(
                logits, step.x, sent=residual, create_graph=create_graph, retain_graph=True
            )
        if create_graph:
            graph.refuse_missing_derivatives([gradient], step.method, "the model")
        return step.per_example(gradient)

    def _read(self, gradients: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.adversary(gradients, logits.shape)
        return outputs, F.cross_entropy(outputs, y)

    def _watched(self, logits: Tensor, y: Tensor, auxiliary_logits: Tensor, g: Tensor) -> dict[str, Any]:
        """What the step showed about the networks, and what to say about it."""
        accuracy = share(auxiliary_logits.detach().argmax(1) == y)
        rms, zeros = root_mean_square(g), zero_share(g)
        self.watch.count(accuracy)
        drift, words = self.watch.drift(logits)
        words += gradient_warnings("model", rms, zeros)
        if not self._progress_set and self._ramp == 0:
            words += self.watch.progress_warnings()
        active = self.alpha > 0.5 * self.alpha_max > 0
        words += self.watch.accuracy_warnings("auxiliary", 1 / logits.shape[1], active)
        return {
            "auxiliary_accuracy": accuracy,
            "logit_drift": drift,
            "gradient_rms": rms,
            "zero_share": zeros,
            "warnings": tuple(words),
        }

    def _result(self, step: Step, **measured: Any) -> DefenseResult:
        return DefenseResult(
            loss=step.task_loss.detach(),
            accuracy=share(step.outputs.detach().argmax(1) == step.y),
            alpha=self.alpha,
            beta=self.beta,
            **measured,
        )
