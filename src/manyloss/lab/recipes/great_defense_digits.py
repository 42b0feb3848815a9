"""GREAT 2018, the mechanism of table 1 on 8x8 digits: long enough that it shows, in minutes.

A check of the mechanism, not of the paper's network: a perceptron with two hidden layers of 128, its
auxiliary the same with LeakyReLU(0.2), eps 0.1, beta_max 2, and the paper's ramps over 1,000 epochs of 18
steps. What GREACE does takes many steps: its logit gradients do not sum to 0, so logits drift over orders of
magnitude, to where the cross-entropy of float32 has an input gradient that is rounding, or exactly 0.

So two attacks are run a second time with their gradient taken in float64 (the accuracy is that of the same
network), and the share of images is counted whose gradient in float32 is exactly 0. `_great_defense` has the
trainings, the other attacks and the curves over training, `_great` the schedule.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from manyloss.lab.arms import ArmContext
from manyloss.lab.problem import FinalEvaluation, Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great import OPEN, random_crop, splits_of
from manyloss.lab.recipes._great_defense import (
    DEPARTURES,
    ROWS,
    ZERO_GRADIENT,
    DefenseProblem,
    defense_arms,
)
from manyloss.lab.recipes._small_digits import LEAKY, perceptron, small_digits

IN_FLOAT64 = ("FGSM, gradient in float64", "iFGSM, gradient in float64")


class SmallDigitDefense(DefenseProblem):
    """8x8 digits for a perceptron; the options are those of `DefenseProblem`."""

    name = "great-defense-digits"
    eps = 0.1
    arms = defense_arms(beta_max=2.0)

    def __init__(self, validation: int = 100, batch_size: int = 64, **options: Any) -> None:
        super().__init__(validation=validation, batch_size=batch_size, **options)
        self.derived = {**self.derived, **dict.fromkeys(IN_FLOAT64, True), ZERO_GRADIENT: False}

    def datasets(self, seed: int) -> Splits:
        """The same images for every seed, in training shifted by up to a pixel."""
        return splits_of(small_digits(), augment=partial(random_crop, padding=1), **self.sizes)

    def has_papers_data(self) -> bool:
        """Never: the paper has CIFAR-10 and a ResNet-18."""
        return False

    def network(self) -> nn.Module:
        """[B, 1, 8, 8] -> logits."""
        return perceptron()

    def auxiliary(self) -> nn.Module:
        """Gradients -> logits of the image's class."""
        return perceptron(LEAKY)

    def final_evaluation(self, model: nn.Module, splits: Splits, context: ArmContext) -> FinalEvaluation:
        """The attacks, those with a gradient in float64, and where float32 has none."""
        found = super().final_evaluation(model, splits, context)
        judged = found.record["robustness"]
        exact = {name: judged["in_float64"][name.partition(",")[0]] for name in IN_FLOAT64}
        return replace(found, metrics={**found.metrics, **exact, ZERO_GRADIENT: judged["zero_gradients"]})


recipe = Recipe(
    name="great-defense-digits",
    summary="The seven trainings on 8x8 digits, long enough that GREACE's mechanism shows.",
    problem=SmallDigitDefense,
    arms=(*ROWS, "trades"),
    seeds=3,
    epochs=1000,
    paper="Gradient Adversarial Training of Neural Networks (2018), table 1",
    departures=(
        *DEPARTURES,
        OPEN,
        "TRADES, the other honest baseline, is not in the paper either.",
        "The setting was chosen because masking had been seen in it, outside the lab and before the rule; on "
        "narrow ResNets it had not been seen.",
        "A check of the mechanism: 8x8 digits and a perceptron in place of CIFAR-10 and ResNet-18.",
        "Small scale: 1,000 epochs of 1,200 images in batches of 64, 18,000 steps, 497 test images.",
    ),
    gpu_scales=(),
    scales={
        "smoke": {
            "epochs": 2,
            "seeds": 1,
            "train": 256,
            "validation": 50,
            "test": 50,
            "attack_steps": 2,
            "pgd_steps": 2,
        },
        "small": {"epochs": 1000, "seeds": 3},
        "full": {"epochs": 1000, "seeds": 5},
    },
)
