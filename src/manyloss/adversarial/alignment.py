"""GREAT for many losses (Sinha et al. 2018, section 2.3, Algorithm 3): gradient alignment layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial.networks import falling_resnet11, mlp
from manyloss.aggregation._base import Aggregator
from manyloss.errors import CheckpointError
from manyloss.plan import Needs
from manyloss.state import InnerOptimizer, OptimizerFactory, State, require_entries

GAMMA_MINIMUM = 1e-3


@dataclass
class AlignmentState(State):
    """What aligns the gradients at every features tensor.

    Attributes:
        gammas: per features tensor, on its device. [T, *F]
        classifiers: per features tensor.
        loss: of the classifiers in the last step, scalar; NaN before.
        accuracy: how often they named the loss, scalar; NaN before.

    """

    gammas: list[Tensor]
    classifiers: list[nn.Module]
    loss: Tensor
    accuracy: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Gammas, then what the classifiers' own state dicts hold."""
        found = {"loss": self.loss, "accuracy": self.accuracy}
        found |= {f"gammas.{place}": gammas for place, gammas in enumerate(self.gammas)}
        for place, classifier in enumerate(self.classifiers):
            found |= {f"classifiers.{place}.{key}": each for key, each in classifier.state_dict().items()}
        return {key: tensor.detach().to("cpu", copy=True) for key, tensor in found.items()}

    def parameters(self) -> list[Tensor]:
        """What learns: per features tensor one gamma per loss (a view), then the classifier's parameters."""
        found: list[Tensor] = []
        for gammas, classifier in zip(self.gammas, self.classifiers, strict=True):
            found += [*gammas.unbind(), *_trained(classifier)]
        return found


@dataclass
class _Reading:
    """What the classifier of one features tensor says: where to go, its buffers after it, how good it is."""

    directions: list[Tensor | None]
    buffers: list[Tensor]
    loss: Tensor
    accuracy: Tensor


@dataclass
class _Lesson:
    """What one step teaches, until it is known to be written."""

    state: AlignmentState
    directions: list[Tensor | None]
    buffers: list[Tensor]
    loss: Tensor
    accuracy: Tensor


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

    name = "alignment"
    search: ClassVar = {"lr": (1e-4, 1e-3, 1e-2)}
    needs = Needs(gradients=True, replaces=True, features=True)
    state: AlignmentState | None
    inner: InnerOptimizer

    def __init__(
        self,
        classifier: nn.Module | None = None,
        *,
        lr: float = 1e-3,
        optimizer: OptimizerFactory | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if classifier is not None:
            checks.network("classifier", classifier)
        self.inner = InnerOptimizer(lr, optimizer)
        self.seed_with(seed)
        self._given = [classifier]  # in a list, so that its parameters stay out of parameters()
        self._parameters_of: AlignmentState | None = None
        self._learning: list[Tensor] = []
        self._lesson: _Lesson | None = None

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """Merge at one tensor: [T, B, *F] -> [B, *F]."""
        return self.aggregate([gradients], [features], names)[0]

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at every features tensor; the gammas and classifiers of all of them learn in one step.

        Raises:
            ValueError: no features, or others in number or shape than in the first step.

        """
        if any(each is None for each in features):
            raise ValueError(
                "GradientAlignment scales per-loss gradients at the features; received gradients at shared "
                "parameters. Pass features= to backward()."
            )
        state = self.state if self.state is not None else self._begin(gradients)
        self._check_shapes(state, gradients)
        self._settle(state, gradients)
        rows = list(self.positions(names))
        # One example alone teaches nothing, and a batch norm refuses it.
        learns = all(len(rows) * each.shape[1] > 1 for each in gradients)
        merged, readings = [], []
        for each, gammas, classifier in zip(gradients, state.gammas, state.classifiers, strict=True):
            with torch.enable_grad(), torch.autocast(each.device.type, enabled=False):
                used = gammas[rows].requires_grad_()
                aligned = used.unsqueeze(1) * each.detach().to(used.dtype)  # [T, B, *F]
                merged.append(aligned.detach().sum(0).to(each.dtype))  # line 7
                if learns:
                    readings.append(_read(aligned, used, rows, len(gammas), classifier))
        if learns:
            directions = [each for reading in readings for each in reading.directions]
            self._lesson = _Lesson(
                state,
                [None if each is None else self.ranks.mean(each) for each in directions],
                [buffer for reading in readings for buffer in reading.buffers],
                torch.stack([reading.loss.to(merged[0].device) for reading in readings]).mean(),
                torch.stack([reading.accuracy.to(merged[0].device) for reading in readings]).mean(),
            )
        return merged

    def commit(self) -> None:
        """Lines 9 and 11: take the step that :meth:`aggregate` has prepared."""
        lesson, self._lesson = self._lesson, None
        if lesson is None:
            return
        state = self.state = lesson.state
        state.loss, state.accuracy = lesson.loss, lesson.accuracy
        held = [buffer for classifier in state.classifiers for buffer in classifier.buffers()]
        for buffer, new in zip(held, lesson.buffers, strict=True):
            buffer.copy_(new)
        if all(each is None or bool(each.isfinite().all()) for each in lesson.directions):
            if self._parameters_of is not state:  # the optimiser knows them by identity
                self._parameters_of, self._learning = state, state.parameters()
            self.inner.step(self._learning, lesson.directions)
            for gammas in state.gammas:
                gammas.clamp_(min=GAMMA_MINIMUM)

    def discard(self) -> None:
        """Forget what :meth:`aggregate` has prepared."""
        super().discard()
        self._lesson = None

    @property
    def classifier_accuracy(self) -> Tensor | None:
        """How often the classifier named the loss in the last step, 0-d; 1 / T is what alignment aims at."""
        return None if self.state is None else self.state.accuracy

    def gamma(self, name: str, place: int = 0) -> Tensor:
        """The present factor of one loss at a features tensor, [*F].

        Raises:
            RuntimeError: there was no step yet.

        """
        if self.state is None:
            raise RuntimeError("GradientAlignment has no gammas before its first step: train first.")
        return self.state.gammas[place][self.positions([name])[0]]

    def _begin(self, gradients: Sequence[Tensor]) -> AlignmentState:
        """Line 2: ones for every loss, and new classifiers."""
        T = len(self.names or ())
        gammas = [
            torch.ones(
                (T, *each.shape[2:]),
                dtype=torch.promote_types(each.dtype, torch.float32),
                device=each.device,
            )
            for each in gradients
        ]
        given = self._given[0]
        if given is not None and len(gammas) > 1:
            raise ValueError(
                f"GradientAlignment got one classifier for {len(gammas)} feature tensors; leave "
                "classifier=None (each then gets its own), or pass one tensor."
            )
        classifiers = [given] if given is not None else [self._default(each) for each in gammas]
        unknown = torch.tensor(torch.nan, dtype=torch.float32, device="cpu")
        state = AlignmentState(gammas, classifiers, unknown, unknown)
        self._settle(state, gradients)
        for classifier in classifiers:
            self.ranks.share_parameters([*classifier.parameters(), *classifier.buffers()])
        return state

    def _default(self, gammas: Tensor) -> nn.Module:
        T, shape = len(gammas), gammas.shape[1:]
        assert self.generator is not None
        usual = torch.get_default_dtype()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(self.generator.initial_seed())  # saved with the generator
            torch.set_default_dtype(torch.float32)
            try:
                made = falling_resnet11(T, shape[0]) if len(shape) == 3 else mlp(shape.numel(), T)
            finally:
                torch.set_default_dtype(usual)
        return made.to(gammas.device, gammas.dtype)

    @staticmethod
    def _check_shapes(state: AlignmentState, gradients: Sequence[Tensor]) -> None:
        if len(gradients) != len(state.gammas):
            raise ValueError(
                f"GradientAlignment started with {len(state.gammas)} feature tensors; received "
                f"{len(gradients)}. Their number is fixed by the first step."
            )
        for each, gammas in zip(gradients, state.gammas, strict=True):
            if each.shape[2:] != gammas.shape[1:]:
                raise ValueError(
                    f"GradientAlignment holds one number per loss and feature, {list(gammas.shape[1:])}; "
                    f"received gradients for {list(each.shape[2:])}. The shape of the features is fixed by "
                    "the first step."
                )

    def _settle(self, state: AlignmentState, gradients: Sequence[Tensor]) -> None:
        """On the features' devices, in the classifier that was given: a loaded state is in neither."""
        given = self._given[0]
        if given is not None and state.classifiers[0] is not given:
            given.load_state_dict(state.classifiers[0].state_dict())
            state.classifiers[0] = given
        for place, each in enumerate(gradients):
            state.classifiers[place].to(each.device)
            if state.gammas[place].device != each.device:
                state.gammas[place] = state.gammas[place].to(each.device)
                self._parameters_of = None
                self.inner.load(self.inner.tensors())

    def read_state(self, tensors: Mapping[str, Tensor]) -> AlignmentState | None:
        """Gammas, and classifiers with the saved weights.

        Raises:
            CheckpointError: the weights are those of another classifier, or something is missing.

        """
        if not tensors:  # saved before the first step
            return None
        require_entries(("gammas.0", "loss", "accuracy"), tensors, "GradientAlignment")
        gammas: list[Tensor] = []
        while f"gammas.{len(gammas)}" in tensors:
            each = tensors[f"gammas.{len(gammas)}"]
            gammas.append(each.detach().to("cpu", torch.promote_types(each.dtype, torch.float32), copy=True))
        given = self._given[0]
        classifiers = [self._default(each) if given is None else copy.deepcopy(given) for each in gammas]
        for place, classifier in enumerate(classifiers):
            prefix = f"classifiers.{place}."
            saved = {key[len(prefix) :]: each for key, each in tensors.items() if key.startswith(prefix)}
            try:
                classifier.load_state_dict(saved)
            except RuntimeError as error:
                raise CheckpointError(
                    "The checkpoint holds the weights of another classifier of GradientAlignment than "
                    f"classifier= gives: {error}"
                ) from error
        loss, accuracy = (tensors[key].detach().to("cpu", copy=True) for key in ("loss", "accuracy"))
        return AlignmentState(gammas, classifiers, loss, accuracy)


def _read(aligned: Tensor, used: Tensor, rows: list[int], T: int, classifier: nn.Module) -> _Reading:
    """Lines 8 to 11: let the classifier name the losses. aligned [T, B, *F], used [T, *F]"""
    trained = _trained(classifier)
    seen = (aligned.shape[1] * aligned).flatten(0, 1)  # [T B, *F], per example
    seen = seen.unsqueeze(1) if seen.dim() == 1 else seen  # features without a feature axis
    labels = torch.tensor(rows, device=aligned.device).repeat_interleave(aligned.shape[1])
    before = [each.clone() for each in classifier.buffers()]
    try:
        logits = checks.auxiliary_outputs(
            classifier(seen), (len(seen), T), "the classifier of GradientAlignment"
        )
        loss = F.cross_entropy(logits, labels)
        slopes, *own = torch.autograd.grad(loss, [used, *trained], allow_unused=True, materialize_grads=True)
    finally:  # the statistics of a batch norm wait for commit(), too
        buffers = [each.clone() for each in classifier.buffers()]
        for buffer, old in zip(classifier.buffers(), before, strict=True):
            buffer.copy_(old)
    # line 10: the gammas climb; one whose loss is absent stays
    climbs = dict(zip(rows, slopes.neg().unbind(), strict=True))
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return _Reading([*(climbs.get(row) for row in range(T)), *own], buffers, loss.detach().float(), accuracy)


def _trained(classifier: nn.Module) -> list[Tensor]:
    return [each for each in classifier.parameters() if each.requires_grad]
