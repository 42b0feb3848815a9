"""GradNorm 2018, section 5.3 and figure 4: are GradNorm's time-averaged weights the best fixed ones?

One network is trained with GradNorm. Then 100 networks get weights drawn from a uniform distribution and
scaled to sum T, one per seed, fixed for the whole training. The paper finds that none of them is better than
GradNorm's, and that they are the worse the farther their weights lie from the average E_t[w].

**gain** is the mean over the losses of 1 - L_i / L_i(GradNorm) on the test images; 0 is figure 4's reference
line. The paper's data is NYUv2 with keypoints, of which no copy can be had; here it is MTFL at 40x40.

One network may be lucky. The row gradnorm, not in the paper, is a GradNorm network for every seed: it starts
from the weights that the seed's random-static starts from, and its gain is over the same reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from manyloss import MultiLoss
from manyloss.lab.arms import Arm, ArmContext
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._against_a_reference import AgainstAReference
from manyloss.lab.recipes._mtfl import OPEN, MtflFaces, method_arms
from manyloss.weighting import Static

REFERENCE = "gradnorm-reference"
GRADNORM = method_arms(alpha=0.3)["gradnorm"]


def drawn_weights(names: Sequence[str], seed: int) -> dict[str, float]:
    """Uniform in [0, 1], scaled to sum T."""
    drawn = np.random.default_rng(seed).random(len(names))
    return dict(zip(names, (len(names) * drawn / drawn.sum()).tolist(), strict=True))


def _random_static(context: ArmContext) -> MultiLoss:
    return MultiLoss(Static(drawn_weights(context.losses, context.seed)))


class RandomStaticWeights(AgainstAReference, MtflFaces):
    """Every seed draws other weights; all are compared with one GradNorm network."""

    name = "gradnorm-static"
    baseline = "random-static"
    #: Whether the row's weights are the seed's draw.
    drawn = True
    drawn_against: Mapping[str, str] = {AgainstAReference.GAIN: AgainstAReference.DISTANCE}
    arms: Mapping[str, Arm] = {
        REFERENCE: Arm(
            REFERENCE,
            "GradNorm, once: the network and the weights that all others are compared with.",
            GRADNORM.method,
            GRADNORM.options,
            shared=True,
        ),
        "random-static": Arm(
            "random-static",
            "Fixed weights, uniformly drawn and scaled to sum T; the seed is the draw.",
            _random_static,
            requires=(REFERENCE,),
        ),
        "gradnorm": replace(GRADNORM, problem={"drawn": False}, requires=(REFERENCE,)),
    }

    def fixed_weights(self, context: ArmContext) -> Mapping[str, float] | None:
        """The seed's draw."""
        return drawn_weights(context.losses, context.seed) if self.drawn else None

    def has_papers_data(self) -> bool:
        """Never: the paper's is NYUv2."""
        return False


recipe = Recipe(
    name="gradnorm-static",
    summary="Fixed random weights against GradNorm's time average, on 40x40 faces.",
    problem=RandomStaticWeights,
    arms=("random-static",),
    seeds=100,
    paper="GradNorm (2018), section 5.3, figure 4",
    departures=(
        *OPEN,
        "MTFL at 40x40 with alpha 0.3, not NYUv2 with alpha 1.5: five losses, not three.",
        "A draw is a seed: networks differ in their initial weights too.",
    ),
    gpu_scales=(),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "data": "made", "train": 64},
        "small": {"epochs": 5, "seeds": 100},
        "full": {"epochs": 20, "seeds": 100},
    },
)
