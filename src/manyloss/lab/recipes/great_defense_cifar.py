"""GREAT 2018, table 1 and figure 4: CIFAR-10 under attack at eps 0.1 (25.5/255), and saliency maps.

beta_max is 2. `_great_defense` has the networks, the trainings and the attacks, `_great` the schedule,
`_saliency` the numbers of figure 4 (left).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from manyloss.lab.arms import ArmContext
from manyloss.lab.datasets import images
from manyloss.lab.problem import FinalEvaluation, Splits
from manyloss.lab.recipes import Recipe, _saliency
from manyloss.lab.recipes._adversarial_training import network_of
from manyloss.lab.recipes._great import OPEN, as_bytes
from manyloss.lab.recipes._great_defense import (
    DEPARTURES,
    FULL,
    ROWS,
    SMALL,
    SMOKE,
    ImageDefense,
    defense_arms,
)


class CifarDefense(ImageDefense):
    """CIFAR-10; scikit-learn's digits with ``data="digits"`` where a download is too much."""

    name = "great-defense-cifar"
    eps = 0.1
    arms = defense_arms(beta_max=2.0)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.derived = {**self.derived, **_saliency.DERIVED}

    def final_evaluation(self, model: nn.Module, splits: Splits, context: ArmContext) -> FinalEvaluation:
        """The attacks and the verdict, and the maps."""
        judged = super().final_evaluation(model, splits, context)
        x, y = (part.to(context.device) for part in as_bytes(splits.test).everything())
        numbers, shown = _saliency.looked_at(
            network_of(model), x, y, self.evaluation_batch_size // 4, images.CLASSES
        )
        record = {**judged.record, "saliency": shown}
        return FinalEvaluation({**judged.metrics, **numbers}, judged.words, judged.remarks, record)


#: Figure 4 (right): the radii of the curves.
SWEEP = (0.02, 0.05, 0.1, 0.2, 0.3)

recipe = Recipe(
    name="great-defense-cifar",
    summary="Six trainings of one classifier under ten attacks: which defense holds, and which one hides?",
    problem=CifarDefense,
    arms=ROWS,
    seeds=3,
    epochs=10,
    paper="Gradient Adversarial Training of Neural Networks (2018), table 1, figure 4",
    departures=(
        *DEPARTURES,
        "Of saliency the paper shows three maps and speaks of them; the three numbers here are ours.",
        OPEN,
        "Small scale: an eighth of the width, 4,000 images, 10 epochs (630 steps), batches of 64, 200 test "
        "images. Medium, for a GPU: half the width, all images, 10 epochs (7,730 steps), batches of 64, 500 "
        "test images, no AutoAttack.",
    ),
    scales={
        "smoke": {**SMOKE, "sweep": (0.05,)},
        "small": {**SMALL, "train": 4000, "sweep": SWEEP},
        "medium": {
            "epochs": 10,
            "seeds": 3,
            "width": 32,
            "validation": 500,
            "test": 500,
            "batch_size": 64,
            "sweep": SWEEP,
        },
        "full": {**FULL, "sweep": SWEEP},
    },
    gpu_scales=("medium", "full"),
)
