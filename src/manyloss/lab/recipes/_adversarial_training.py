"""Ways of training a classifier: on adversarial images, or by a defense or a distiller of the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss.adversarial import ModelMethod
from manyloss.lab.training import Trainer
from manyloss.restore import modes_restored
from manyloss.result import StepResult
from manyloss.robustness import fgsm, pgd

#: Steps between two measurements that cost passes of their own.
COSINE_EVERY = 200

MakeAdversarial = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


class Classifier(nn.Module):
    """A network with one task: ``forward(x) -> (logits, {task: logits})``, which is what a trial wants."""

    def __init__(self, network: nn.Module, task: str = "class") -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, C, H, W] -> logits [B, classes]."""
        logits: Tensor = self.network(x)
        return logits, {self.task: logits}


def network_of(model: nn.Module) -> nn.Module:
    """The network that maps images to logits; the stand-in of an untried arm is its own."""
    return model.network if isinstance(model, Classifier) else model


class AdversarialTraining(Trainer):
    """Cross-entropy on adversarial images made anew in every step, together with the clean ones or alone.

    ``make(network, x, y, number)`` returns images like x; ``number`` differs from step to step. Both halves
    go through the network as one batch, so that BatchNorm sees their mixture.
    """

    def __init__(self, make: MakeAdversarial, *, clean: bool, task: str = "class") -> None:
        super().__init__()
        self.make, self.clean, self.task = make, clean, task
        self.steps = 0

    def step(self, model: nn.Module, inputs: Tensor, targets: Mapping[str, Tensor]) -> StepResult:
        """0.5 (L(clean) + L(adversarial)), or L(adversarial)."""
        network, y = network_of(model), targets[self.task]
        adversarial = self.make(network, inputs, y, self.steps)
        self.steps += 1
        images = torch.cat([inputs, adversarial]) if self.clean else adversarial
        logits = network(images).float()
        loss = self.loss(logits, y)
        torch.autograd.backward(loss)
        right = (logits.detach()[-len(y) :].argmax(1) == y).double().mean()
        self.watched = {"accuracy under attack": float(right)}
        value = loss.detach().double().cpu()
        return StepResult({self.task: value}, {self.task: torch.ones_like(value)})

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Of the logits of all images, the clean ones first: a scalar."""
        return F.cross_entropy(logits, torch.cat([y, y]) if self.clean else y)

    def differentiated_once(self, model: nn.Module) -> list[nn.Module]:
        """The attack's pass and the training's are separate graphs."""
        return [network_of(model)]

    def state_dict(self) -> dict[str, Any]:
        """How many steps were made: they number the random starts."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.steps = state["steps"]


def fgsm_training(eps: float) -> AdversarialTraining:
    """0.5 (L(clean) + L(FGSM)) (GREAT 2018, supplement)."""
    return AdversarialTraining(lambda network, x, y, _: fgsm(network, x, y, eps), clean=True)


def pgd_training(eps: float, *, steps: int, seed: int) -> AdversarialTraining:
    """L(PGD) from a random start (Madry et al. 2017), the honest baseline."""

    def make(network: nn.Module, x: Tensor, y: Tensor, number: int) -> Tensor:
        return pgd(network, x, y, eps, steps=steps, seed=1_000_003 * seed + number)

    return AdversarialTraining(make, clean=False)


class Trades(AdversarialTraining):
    """L(clean) + beta KL(p(clean) || p(adversarial)) (Zhang et al. 2019); the attack raises that KL."""

    def __init__(self, make: MakeAdversarial, *, beta: float, task: str = "class") -> None:
        super().__init__(make, clean=True, task=task)
        self.beta = beta

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """A scalar; the gradient flows into both sides of the KL."""
        clean, moved = logits.chunk(2)
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, moved).mean()


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(others)), [B]."""
    return F.kl_div(others.log_softmax(1), logits.softmax(1), reduction="none").sum(1)


def trades(eps: float, *, beta: float, steps: int, seed: int) -> Trades:
    """TRADES, from a uniform random start (the paper's is Gaussian and tiny)."""

    def make(network: nn.Module, x: Tensor, y: Tensor, number: int) -> Tensor:
        with modes_restored(network), torch.no_grad():
            clean = network.eval()(x).float()
        start = 1_000_003 * seed + number
        return pgd(
            network, x, y, eps, steps=steps, loss=lambda logits, _: divergence(clean, logits), seed=start
        )

    return Trades(make, beta=beta)


class LibraryMethod(Trainer):
    """A defense or a distiller of the library, whose ``backward(x, y)`` fills the gradients of the model.

    What it measures is watched; its sentences about what goes wrong are counted, numbers aside.
    """

    def __init__(self, method: ModelMethod[Any], task: str = "class") -> None:
        super().__init__()
        self.method, self.task = method, task
        self.steps = 0

    def step(self, model: nn.Module, inputs: Tensor, targets: Mapping[str, Tensor]) -> StepResult:
        """One step of the method; it holds the model itself."""
        self.steps += 1
        # Not in the first steps, when BatchNorm's running averages are of nothing yet.
        measured = self.steps % COSINE_EVERY == 0
        result = self.method.backward(inputs, targets[self.task], batchnorm_cosine=measured)
        values = {field.name: getattr(result, field.name) for field in fields(result)}
        self.watched = {
            name.replace("_", " "): float(value)
            for name, value in values.items()
            if isinstance(value, Tensor | float) and not isinstance(value, bool) and name != "objective"
        }
        for notice in result.warnings:
            self.warnings[notice.kind] = self.warnings.get(notice.kind, 0) + 1
        loss = result.loss.double().cpu()
        return StepResult({self.task: loss}, {self.task: torch.ones_like(loss)})

    def differentiated_once(self, model: nn.Module) -> list[nn.Module]:
        """The teacher, or a defense's auxiliary; a distiller reads its discriminator's graph twice."""
        return list(self.method.differentiated_once)

    def set_progress(self, fraction: float) -> None:
        """Drive the ramps of alpha and beta, and the learning rate of the auxiliary network."""
        self.method.set_progress(fraction)

    def state_dict(self) -> dict[str, Any]:
        """The method's state, without the model (the trial keeps it) and the teacher (it stays as it is)."""
        kept = {
            name: value
            for name, value in self.method.state_dict().items()
            if name.partition(".")[0] not in ("model", "student", "teacher")
        }
        return {"method": kept, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self.method.load_state_dict(state["method"], strict=False)
        self.steps = state["steps"]
