"""GREAT 2018, table 1 and figure 4 (right): CIFAR-10 under attack at eps 0.1 (25.5/255).

beta_max is 2. `_great_defense` has the networks, the trainings and the attacks, `_great` the schedule.
"""

from __future__ import annotations

from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great import OPEN
from manyloss.lab.recipes._great_defense import (
    DEPARTURES,
    FULL,
    ROWS,
    SMALL,
    SMOKE,
    DefenseProblem,
    defense_arms,
)


class CifarDefense(DefenseProblem):
    """CIFAR-10; scikit-learn's digits with ``data="digits"`` where a download is too much."""

    name = "great-defense-cifar"
    eps = 0.1
    arms = defense_arms(beta_max=2.0)


#: Figure 4 (right): the radii of the curves.
SWEEP = (0.02, 0.05, 0.1, 0.2, 0.3)

recipe = Recipe(
    name="great-defense-cifar",
    summary="Six trainings of one classifier under ten attacks: which defense holds, and which one hides?",
    problem=CifarDefense,
    arms=ROWS,
    seeds=3,
    epochs=10,
    paper="Gradient Adversarial Training of Neural Networks (2018), table 1, figure 4 right",
    departures=(
        *DEPARTURES,
        OPEN,
        "Small scale: an eighth of the width, 4,000 images, 10 epochs, batches of 64, 200 test images.",
    ),
    scales={
        "smoke": {**SMOKE, "sweep": (0.05,)},
        "small": {**SMALL, "train": 4000, "sweep": SWEEP},
        "full": {**FULL, "sweep": SWEEP},
    },
)
