"""GREAT 2018, supplement: Sobolev training, which matches gradients directly, beside GREAT, for CNN-5.

The paper reports 84.98 % (all images) and 66.50 % (5 %) against GREAT's 85.72 % and 66.55 %. It gives no
weight of the squared distance: 1 here, and ``--methods sobolev:weight=10`` searches.
`great_distill_cnn` has the problem, whose teacher serves this recipe too.
"""

from __future__ import annotations

from functools import partial

from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great_distill import SPARSE
from manyloss.lab.recipes.great_distill_cnn import ALL, DEPARTURES, SCALES, SMALL, SPARSELY, CnnFromResNet

recipes = tuple(
    Recipe(
        name=name,
        summary=f"Gradients matched directly or by an adversary, with {images}.",
        problem=partial(CnnFromResNet, recipe_name=name, share=share),
        arms=("baseline", "sobolev", "great"),
        seeds=3,
        epochs=50,
        paper="Gradient Adversarial Training of Neural Networks (2018), supplement",
        departures=(
            *DEPARTURES,
            SMALL[images],
            "The distance is a mean over images and pixels. Its weight is 1: of 1, 10, 100, 1,000 and 10,000 "
            "the best on the validation images (two seeds, 500 images, 10 epochs).",
        ),
        scales=SCALES[images],
    )
    for name, share, images in (
        ("great-sobolev", 1.0, ALL),
        ("great-sobolev-5", SPARSE, SPARSELY),
    )
)
