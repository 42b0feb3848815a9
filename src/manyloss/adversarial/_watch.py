"""What is watched while an adversary trains, and the words for what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss.adversarial.result import Notice
from manyloss.input_gradients import Loss, as_input, input_gradient, mean_loss
from manyloss.linalg import wide
from manyloss.restore import buffers_restored, modes_restored
from manyloss.state import State

PATIENCE = 100  # steps before a running accuracy is judged
VANISHED = 1e-8  # RMS below which a gradient carries nothing
ZERO_SHARE = 0.1
DRIFT_FACTOR = 10.0
BATCHNORM_COSINE = 0.5
WON = 0.99
AT_CHANCE = 1.1  # times the accuracy of a guess


def _double(values: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return values.detach().to(wide(values.device))


def root_mean_square(gradients: Tensor) -> Tensor:
    """sqrt(mean g^2) over everything."""
    return _double(gradients).square().mean().sqrt()


def share(right: Tensor) -> Tensor:
    """How many of the examples [B] it is true of, in [0, 1]."""
    return _double(right).mean()


def zero_share(gradients: Tensor) -> Tensor:
    """Share of the examples [B, ...] whose gradient is exactly zero everywhere."""
    return share((gradients.detach().flatten(1) == 0).all(1))


def batchnorm_cosine(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = F.cross_entropy) -> Tensor:
    """Mean cosine between the input gradients in the modes as they are and in eval mode, a 0-d tensor.

    An attacker sees the eval mode; a defense is trained in train mode. Far from 1, the two differ, and what
    is learned does not carry over. Costs two passes; nothing in the model changes.
    """

    def gradient() -> Tensor:
        inputs = as_input(x)
        with torch.enable_grad():
            value = mean_loss(loss, model(inputs), y)
            return _double(input_gradient(value, inputs).flatten(1))

    with modes_restored(model), buffers_restored(model):
        as_trained = gradient()  # what is frozen stays frozen
        model.eval()
        return F.cosine_similarity(as_trained, gradient(), dim=1).mean()


@dataclass
class Watch(State):
    """Running means over steps, kept in the state so that a resumed run warns as the unbroken one does.

    Attributes:
        steps: how many there were.
        running_accuracy: of the auxiliary network.
        first_centre: mean_b |mean_c z| in the first step; -1 before.

    """

    steps: int = 0
    running_accuracy: float = 0.0
    first_centre: float = -1.0

    def count(self, accuracy: Tensor) -> None:
        """One more step, at which the auxiliary network had this accuracy."""
        self.steps += 1
        self.running_accuracy += max(0.02, 1.0 / self.steps) * (float(accuracy) - self.running_accuracy)

    def progress_warnings(self) -> list[Notice]:
        """The warning for a caller who has not set the progress, after a while."""
        if self.steps < PATIENCE:
            return []
        return [
            Notice(
                "set_progress was never called: alpha and beta are still 0, and this is plain training. Call "
                "set_progress(epoch / epochs) before every epoch."
            )
        ]

    def drift(self, logits: Tensor) -> tuple[Tensor, list[Notice]]:
        """Growth of mean_b |mean_c z| since the first step, and a warning when it dwarfs their spread."""
        values = _double(logits)
        centre = values.mean(1).abs().mean()
        if self.first_centre < 0:
            self.first_centre = float(centre)
        spread = float(values.std(1).mean())
        notices = []
        if float(centre) > DRIFT_FACTOR * max(1.0, spread):
            notices.append(
                Notice(
                    "The logits drift: their mean is {centre:.3g} from 0, against a spread of {spread:.3g}. "
                    "Literal GREACE gradients do not sum to 0; greace='reweighted' is bounded.",
                    centre=float(centre),
                    spread=spread,
                )
            )
        return centre - self.first_centre, notices

    def accuracy_warnings(self, who: str, chance: float, active: bool) -> list[Notice]:
        """Words about an adversary that has won, or that has learned nothing."""
        accuracy = self.running_accuracy
        if self.steps < PATIENCE or not active:
            return []
        if accuracy > WON:
            return [
                Notice(
                    f"The {who} is right on {{accuracy:.1%}} of the gradients: the model does not follow it. "
                    "Raise alpha, or lower its learning rate.",
                    accuracy=accuracy,
                )
            ]
        if accuracy < AT_CHANCE * chance:
            return [
                Notice(
                    f"The {who} is at chance ({{accuracy:.1%}}): either nothing is left to find, or it has "
                    "collapsed. Train a fresh one on the finished model to tell which.",
                    accuracy=accuracy,
                )
            ]
        return []


def gradient_warnings(name: str, rms: Tensor, zeros: Tensor) -> list[Notice]:
    """Words about input gradients that carry nothing."""
    notices = []
    if float(rms) < VANISHED:
        notices.append(
            Notice(
                f"The {name}'s input gradients vanish (RMS {{rms:.2g}}): there is nothing to read in them.",
                rms=float(rms),
            )
        )
    if float(zeros) > ZERO_SHARE:
        notices.append(
            Notice(
                f"{{zeros:.0%}} of the {name}'s input gradients are exactly zero: the model saturates.",
                zeros=float(zeros),
            )
        )
    return notices


def batchnorm_warnings(cosine: Tensor) -> list[Notice]:
    """Words about input gradients that differ between train and eval mode."""
    if float(cosine) >= BATCHNORM_COSINE:
        return []
    return [
        Notice(
            "Input gradients in train and eval mode have cosine {cosine:.2f}: what is learned in one does "
            "not hold in the other. Use larger batches, or freeze BatchNorm.",
            cosine=float(cosine),
        )
    ]
