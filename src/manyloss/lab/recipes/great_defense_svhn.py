"""GREAT 2018, table 2: SVHN under attack at eps 0.2 (51/255).

beta_max is 10. SVHN's own files are read where they are (``--data svhn``, the paper's); USPS and MNIST stand
in. `_great_defense` has the networks, the trainings and the attacks, `_great` the schedule.
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
    ImageDefense,
    defense_arms,
)


class DigitDefense(ImageDefense):
    """House digits, or handwritten ones."""

    name = "great-defense-svhn"
    eps = 0.2
    default_data = "usps"
    papers_data = "svhn"
    arms = defense_arms(beta_max=10.0)


recipe = Recipe(
    name="great-defense-svhn",
    summary="The same six trainings on digits, at twice the eps.",
    problem=DigitDefense,
    arms=ROWS,
    seeds=3,
    epochs=10,
    paper="Gradient Adversarial Training of Neural Networks (2018), table 2",
    departures=(
        *DEPARTURES,
        OPEN,
        "By default USPS stands in, grey digits enlarged to 32x32, or MNIST; --scale full is SVHN.",
        "Small scale: an eighth of the width, 3,000 images, 10 epochs, batches of 64, 200 test images.",
    ),
    scales={
        "smoke": SMOKE,
        "small": {**SMALL, "train": 3000},
        "full": {**FULL, "data": "svhn"},
    },
)
