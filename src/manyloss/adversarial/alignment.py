"""GREAT for many losses (Sinha et al. 2018, section 2.3, Algorithm 3): gradient alignment layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial.networks import falling_resnet11, mlp
from manyloss.aggregation._base import Aggregator
from manyloss.state import InnerOptimizer, OptimizerFactory

GAMMA_MINIMUM = 1e-3


class GradientAlignment(Aggregator):
    """An element-wise factor per loss, trained so that a classifier cannot name the loss a gradient came
    from.

    The features receive sum_i gamma_i o g_i, gamma_i of the features' shape without the batch, ones at
    first. In the same step a classifier reads B gamma_i o g_i of every loss, per example, and is trained to
    name i (lines 8, 9); the gammas follow its reversed gradient (lines 10, 11), from the same pass, and are
    clamped at 1e-3. No double backward; nothing is left at inference. Use it with `weighting=InitialLoss()`,
    as the paper divides losses by their initial value (line 4).

    Args:
        classifier: [N, *F] -> [N, T]; by default the supplement's ResNet-11 for [C, H, W], else a small MLP.
            For several feature tensors the default is made for each.
        lr: of plain Adam, for the classifier and the gammas.
        optimizer: parameters -> Optimizer, for anything else.
        seed: of the default classifier's weights.

    """

    needs_features = True

    def __init__(
        self,
        classifier: nn.Module | None = None,
        *,
        lr: float = 1e-3,
        optimizer: OptimizerFactory | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inner: InnerOptimizer = InnerOptimizer(lr, optimizer)
        self._given = [classifier]  # in a list, so that its parameters stay out of parameters()
        self._classifiers: list[nn.Module] = []
        self.memory["seed"] = seed
        self._names: tuple[str, ...] = ()

    def bind(self, names: tuple[str, ...]) -> None:
        """Remember all losses, so that one that is absent at first keeps its place."""
        self._names = tuple(names)

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """Merge at one tensor: [T, B, *F] -> [B, *F]."""
        return self.aggregate([gradients], [features], names)[0]

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at every features tensor; the gammas and classifiers of all of them learn in one step."""
        for each in features:
            checks.alignment_place(each)
        if "gammas" not in self.memory:
            self._start(gradients, names)
        self._build(gradients)
        rows = [self.memory["names"].index(name) for name in names]
        merged, losses, accuracies = [], [], []
        parameters: list[Tensor] = []
        directions: list[Tensor | None] = []
        for place, loss_gradients in enumerate(gradients):
            gammas: list[Tensor] = [self.memory["gammas"][place][row] for row in rows]
            classifier = self._classifiers[place]
            checks.alignment_shape(loss_gradients.shape[2:], gammas[0].shape)
            trained = [each for each in classifier.parameters() if each.requires_grad]
            with torch.enable_grad(), torch.autocast(loss_gradients.device.type, enabled=False):
                used = torch.stack(gammas).requires_grad_()
                aligned = used.unsqueeze(1) * loss_gradients.detach().to(used.dtype)  # [T, B, *F]
                merged.append(aligned.detach().sum(0).to(loss_gradients.dtype))  # line 7
                seen = (aligned.shape[1] * aligned).flatten(0, 1)  # [T B, *F], per example
                labels = torch.tensor(rows, device=seen.device).repeat_interleave(aligned.shape[1])
                logits = checks.auxiliary_outputs(
                    classifier(seen),
                    (len(seen), len(self.memory["names"])),
                    "the classifier of GradientAlignment",
                )
                loss = F.cross_entropy(logits, labels)  # line 8
                found = torch.autograd.grad(loss, [used, *trained], allow_unused=True, materialize_grads=True)
            for row, gamma in enumerate(self.memory["gammas"][place]):
                parameters.append(gamma)  # line 10: the gammas climb; one whose loss is absent stays
                directions.append(-found[0][rows.index(row)] if row in rows else None)
            parameters += trained
            directions += found[1:]
            losses.append(loss.detach())
            accuracies.append((logits.detach().argmax(1) == labels).double().mean())
        self.memory["classifier_loss"] = torch.stack(losses).mean().cpu()
        self.memory["classifier_accuracy"] = torch.stack(accuracies).mean().cpu()
        directions = [None if each is None else self.ranks.mean(each) for each in directions]
        if all(each is None or bool(each.isfinite().all()) for each in directions):
            self.inner.step(parameters, directions)  # lines 9, 11
            for gammas in self.memory["gammas"]:
                for gamma in gammas:
                    gamma.clamp_(min=GAMMA_MINIMUM)
        return merged

    @property
    def classifier_accuracy(self) -> Tensor | None:
        """How often the classifier named the loss in the last step, 0-d; 1 / T is what alignment aims at."""
        accuracy: Tensor | None = self.memory.get("classifier_accuracy")
        return accuracy

    def gamma(self, name: str, place: int = 0) -> Tensor:
        """The present factor of one loss at a features tensor, [*F]."""
        factor: Tensor = self.memory["gammas"][place][self.memory["names"].index(name)]
        return factor

    def _start(self, gradients: Sequence[Tensor], names: Sequence[str]) -> None:
        """Line 2: ones, for every loss."""
        known = list(self._names or names)
        self.memory["names"] = known
        self.memory["gammas"] = [
            [torch.ones(each.shape[2:], dtype=torch.promote_types(each.dtype, torch.float32)) for _ in known]
            for each in gradients
        ]

    def _build(self, gradients: Sequence[Tensor]) -> None:
        """The classifiers, at the first step of this object, with the saved weights if there are any."""
        if self._classifiers:
            checks.alignment_places(len(gradients), len(self._classifiers))
            return
        given = self._given[0]
        checks.alignment_classifier(given is not None, len(gradients))
        device = gradients[0].device
        places = [[gamma.to(device) for gamma in gammas] for gammas in self.memory["gammas"]]
        self.memory["gammas"] = places
        made = [given] if given is not None else [self._default_classifier(gammas) for gammas in places]
        for position, classifier in enumerate(made):
            if "classifiers" in self.memory:
                classifier.load_state_dict(self.memory["classifiers"][position])
            classifier.to(device=device)
            self.ranks.share_parameters([*classifier.parameters(), *classifier.buffers()])
        self._classifiers = made

    def _default_classifier(self, gammas: Sequence[Tensor]) -> nn.Module:
        shape = gammas[0].shape
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.memory["seed"])
            made = (
                falling_resnet11(len(gammas), shape[0])
                if len(shape) == 3
                else mlp(shape.numel(), len(gammas))
            )
        return made.to(gammas[0].dtype)

    def get_extra_state(self) -> bytes:
        """The learned state as bytes: gammas, classifiers, their optimiser."""
        if self._classifiers:
            self.memory["classifiers"] = [dict(classifier.state_dict()) for classifier in self._classifiers]
        return super().get_extra_state()

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave; the classifiers are made again at the next step."""
        super().set_extra_state(state)
        self._classifiers = []
