"""GREAT as a defense (Sinha et al. 2018, section 2.1 and Algorithm 1): input gradients that do not tell the
class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from manyloss import checks
from manyloss.adversarial._adversary import Adversary, Team
from manyloss.adversarial._reading import (
    Loss,
    backward,
    frozen_statistics,
    learning_rate_multiplier,
    loss_scale,
    per_example,
    reaching,
    scaled,
    scaled_gradients,
    unchanged_on_error,
    widened,
)
from manyloss.adversarial._second import SecondDerivatives, inputs_only
from manyloss.adversarial._watch import Watch, batchnorm_cosine, root_mean_square, zero_share
from manyloss.distributed import Setting
from manyloss.state import OptimizerFactory


@dataclass(frozen=True)
class DefenseResult:
    """What one step saw; tensors are detached and 0-d. `skipped`: not finite, left to the GradScaler to
    skip.
    """

    loss: Tensor
    objective: Tensor
    accuracy: Tensor
    auxiliary_loss: Tensor
    auxiliary_accuracy: Tensor
    logit_drift: Tensor
    gradient_rms: Tensor
    zero_share: Tensor
    batchnorm_cosine: Tensor | None
    alpha: float
    beta: float
    warnings: tuple[str, ...]
    skipped: bool = False


def greace(logits: Tensor, y: Tensor, similarity: Tensor, beta: float, kind: str, loss: Loss) -> Tensor:
    """The GREACE loss (eq. 6), a mean over the batch. logits [B, C], similarity [B, C] the auxiliary's
    softmax.

    literal: the surrogate loss + beta sum_{k != y} s_k z_k, whose logit gradient is that of the loss plus
    beta s_k. reweighted: log(1 + beta s_k) is added to the negative logits, which is bounded and does not
    make logits drift.
    """
    negative = similarity.detach().to(logits.dtype) * (1 - F.one_hot(y, logits.shape[1]).to(logits.dtype))
    if kind == "literal":
        return loss(logits, y) + beta * (negative * logits).sum(1).mean()
    return loss(logits + torch.log1p(beta * negative), y)


class GradientDefense(nn.Module):
    """Trains a classifier whose input gradients an auxiliary classifier cannot tell apart by class.

    `result = method.backward(x, y)` fills the model's `.grad`; the user's optimiser steps;
    `set_progress(epoch/epochs)` drives alpha and beta = max (1 - m) and the auxiliary's rate lr m, m = (1 -
    epoch/epochs)^0.9 (supplement). GREAT is beta_max=0, GREACE is alpha_max=0, GRE(AT+CE) is both.

    model: returns logits [B, C] from x [B, ...] in pixel units, with any normalisation inside. auxiliary:
    returns [B, C] from gradients shaped like x; `networks.leaky(model)` makes one.
    greace: "literal" is eq. 6, "reweighted" a bounded relative of it (`greace()` above).
    mask: "true_class" reads g = grad_x through the true class's logit only, ((p - 1_y) o 1_y), with p
    attached; "detached" the same with p constant; "none" the whole loss gradient.
    simultaneous: both networks use one pass through the auxiliary; False trains it first and reads it again.
    input_range: what x must lie in; None leaves it unchecked. loss(logits, y) is a mean over the batch.

    Departures from the paper: line 6's sign (eq. 7's max is a slip). Such defenses tend to mask gradients:
    judge them with `manyloss.robustness.evaluate`.
    """

    progress: Tensor

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
        super().__init__()
        checks.one_of("greace", greace, ("literal", "reweighted"))
        checks.one_of("mask", mask, ("true_class", "none", "detached"))
        checks.at_least("alpha_max", alpha_max, 0.0)
        checks.at_least("beta_max", beta_max, 0.0)
        self.model = model
        self.adversary = Adversary(auxiliary, auxiliary_lr, optimizer, "auxiliary")
        self.alpha_max, self.beta_max = alpha_max, beta_max
        self.greace, self.mask, self.simultaneous = greace, mask, simultaneous
        self.loss, self.input_range = loss, input_range
        self.watch = Watch()
        self.team = Team(distributed)
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self._told_progress = False

    @property
    def auxiliary(self) -> nn.Module:
        """The network that classifies gradients."""
        return self.adversary.network

    @property
    def alpha(self) -> float:
        """Weight of the reversed gradient now."""
        return self.alpha_max * (1.0 - learning_rate_multiplier(float(self.progress)))

    @property
    def beta(self) -> float:
        """Weight of GREACE now."""
        return self.beta_max * (1.0 - learning_rate_multiplier(float(self.progress)))

    def set_progress(self, fraction: float) -> None:
        """Tell how much of the training is done, epoch / epochs in [0, 1]."""
        checks.progress(fraction)
        self.progress.fill_(fraction)
        self._told_progress = True
        self.adversary.set_progress(fraction)

    def backward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss | None = None,
        grad_scaler: GradScaler | None = None,
        batchnorm_cosine: bool = False,
    ) -> DefenseResult:
        """Add the gradient of the defended objective to the model's `.grad`, and train the auxiliary by one
        step.

        x [B, ...] inside `input_range`, y int64 [B]. batchnorm_cosine: measure it too, for two more passes.
        Raises ValueError for bad input or outputs, with nothing written and the model unchanged.
        """
        checks.images(x, self.input_range)
        checks.labels_of(x, y)
        with unchanged_on_error(self.model, self.auxiliary), SecondDerivatives():
            result = self._step(x, y, loss or self.loss, grad_scaler)
        if batchnorm_cosine:
            result = self._with_batchnorm_cosine(result, x, y, loss or self.loss)
        return result

    def _step(self, x: Tensor, y: Tensor, loss: Loss, grad_scaler: GradScaler | None) -> DefenseResult:
        self.team.meet(self.auxiliary)
        alpha, beta = self.alpha, self.beta
        scale = loss_scale(grad_scaler, x)
        x = x.detach().requires_grad_()

        logits = self.model(x)  # [B, C], line 3
        checks.logits(logits, len(x))
        checks.labels_in_range(y, logits.shape[1])
        checks.reaches_input(logits)
        if alpha > 0:
            checks.double_backward(logits)
        task_loss = checks.scalar_loss(loss(logits, y))
        g = self._masked_gradient(task_loss, logits, x, y, scale, create_graph=alpha > 0)  # [B, ...], line 4
        if not self.team.all_finite(task_loss, g):
            return self._not_finite(task_loss, grad_scaler, logits, y, "The loss or its input gradient")

        seen = self.adversary.cast(g.detach()).requires_grad_()
        auxiliary_logits, auxiliary_loss = self._read(seen, logits, y)  # line 5
        wanted = [*self.adversary.trained, *([seen] if self.simultaneous and alpha > 0 else [])]
        gradients = scaled_gradients(auxiliary_loss, wanted, scale)
        own, reaching_g = gradients[: len(self.adversary.trained)], gradients[len(self.adversary.trained) :]
        own = self.team.average(own)
        if not self.team.all_finite(auxiliary_loss, *gradients):
            return self._not_finite(task_loss, grad_scaler, logits, y, "The auxiliary's loss or gradient")
        self.adversary.learn(own)  # line 6

        similarity = auxiliary_logits.detach().softmax(1)
        if not self.simultaneous:
            torch.clear_autocast_cache()  # it holds the weights from before the auxiliary's step
            with frozen_statistics(self.auxiliary):
                second_logits, second_loss = self._read(seen, logits, y)
                similarity = second_logits.detach().softmax(1)
                reaching_g = [reaching(second_loss, seen, scale)] if alpha > 0 else []
            if not self.team.all_finite(second_loss, *reaching_g):
                return self._not_finite(
                    task_loss, grad_scaler, logits, y, "The auxiliary's second loss or gradient"
                )

        objective = greace(widened(logits), y, similarity, beta,
                           self.greace, loss) if beta > 0 else task_loss  # line 8  # fmt: skip
        surrogate = objective
        for reached in reaching_g:
            surrogate = (
                surrogate + (-alpha * reached.to(g.dtype) * g).sum()
            )  # line 7: the reversed gradient, sent back
        backward(surrogate, grad_scaler)  # line 9 is the user's optimiser
        return self._result(
            task_loss, objective - alpha * auxiliary_loss, logits, y, auxiliary_logits, auxiliary_loss, g
        )

    def _masked_gradient(
        self,
        task_loss: Tensor,
        logits: Tensor,
        x: Tensor,
        y: Tensor,
        scale: Tensor | None,
        *,
        create_graph: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False), inputs_only():
            (residual,) = torch.autograd.grad(  # p - 1_y for cross-entropy, [B, C]
                scaled(task_loss, scale),
                logits,
                create_graph=create_graph and self.mask != "detached",
                retain_graph=True,
            )
            if self.mask != "none":
                residual = residual * F.one_hot(y, logits.shape[1]).to(residual.dtype)
            (gradient,) = torch.autograd.grad(
                logits, x, residual, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
            return per_example(checks.input_gradient(gradient), scale)

    def _read(self, gradients: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.adversary(gradients, logits.shape)
        return outputs, F.cross_entropy(outputs, y)

    def _not_finite(
        self, task_loss: Tensor, grad_scaler: GradScaler | None, logits: Tensor, y: Tensor, what: str
    ) -> DefenseResult:
        if grad_scaler is None or not grad_scaler.is_enabled():
            raise checks.not_finite(what)
        backward(
            task_loss * torch.nan, grad_scaler
        )  # the scaler sees it, skips this step and lowers its scale
        nan = torch.full((), torch.nan, device=logits.device)
        accuracy = (logits.detach().argmax(1) == y).double().mean()
        return DefenseResult(
            task_loss.detach(), nan, accuracy, nan, nan, nan, nan, nan, None, self.alpha, self.beta,
            (f"{what} is not finite; the GradScaler skips this step.",), skipped=True,
        )  # fmt: skip

    def _result(
        self,
        task_loss: Tensor,
        objective: Tensor,
        logits: Tensor,
        y: Tensor,
        auxiliary_logits: Tensor,
        auxiliary_loss: Tensor,
        g: Tensor,
    ) -> DefenseResult:
        auxiliary_accuracy = (auxiliary_logits.detach().argmax(1) == y).double().mean()
        rms, zeros = root_mean_square(g), zero_share(g)
        self.watch.count(auxiliary_accuracy)
        drift, drift_warning = self.watch.drift(logits)
        words = [drift_warning] if drift_warning else []
        words += self.watch.gradient_warnings("model", rms, zeros)
        if not self._told_progress and float(self.progress) == 0:
            words += self.watch.progress_warnings()
        words += self.watch.accuracy_warnings(
            "auxiliary", 1 / logits.shape[1], self.alpha > 0.5 * self.alpha_max > 0
        )
        return DefenseResult(
            loss=task_loss.detach(),
            objective=objective.detach(),
            accuracy=(logits.detach().argmax(1) == y).double().mean(),
            auxiliary_loss=auxiliary_loss.detach(),
            auxiliary_accuracy=auxiliary_accuracy,
            logit_drift=drift,
            gradient_rms=rms,
            zero_share=zeros,
            batchnorm_cosine=None,
            alpha=self.alpha,
            beta=self.beta,
            warnings=tuple(words),
        )

    def _with_batchnorm_cosine(
        self, result: DefenseResult, x: Tensor, y: Tensor, loss: Loss
    ) -> DefenseResult:
        cosine = batchnorm_cosine(self.model, x, y, loss)
        words = (*result.warnings, *self.watch.batchnorm_warnings(cosine))
        return DefenseResult(**{**vars(result), "batchnorm_cosine": cosine, "warnings": words})
