"""GREAT 2018, supplement: Sobolev training, which matches gradients directly, beside GREAT, for CNN-5.

With 5 % of the images; the paper reports 66.50 % against GREAT's 66.55 %. This is the experiment of a claim
that was judged under this name; later claims are judged from the trials of `great_distill_cnn`.
"""

from __future__ import annotations

from functools import partial

from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._great_distill import SPARSE
from manyloss.lab.recipes.great_distill_cnn import DEPARTURES, SCALES, SMALL, SPARSELY, CnnFromResNet

recipe = Recipe(
    name="great-sobolev-5",
    summary=f"Gradients matched directly or by an adversary, with {SPARSELY}.",
    problem=partial(CnnFromResNet, recipe_name="great-sobolev-5", share=SPARSE),
    arms=("baseline", "sobolev", "great"),
    seeds=3,
    epochs=50,
    paper="Gradient Adversarial Training of Neural Networks (2018), supplement",
    departures=(*DEPARTURES, SMALL[SPARSELY]),
    scales=SCALES[SPARSELY],
)
