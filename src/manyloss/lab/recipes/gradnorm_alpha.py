"""GradNorm 2018, supplement 7.1 and figure 7: the gain over equal weights for alpha from 0 to 3.

The gain is the mean over the losses of 1 - L_i / L_i(equal weights) on the test images, of networks that
start from the same weights. The paper finds a gain at every alpha that it tried, largest near 1.5.

The paper's data is NYUv2 with keypoints, of which no copy can be had; here it is MTFL at 40x40.
"""

from __future__ import annotations

from collections.abc import Mapping

from manyloss.lab.arms import BUILT_IN, Arm
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._mtfl import OPEN, AgainstAReference, method_arms

ALPHAS = (0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0)


class Alphas(AgainstAReference):
    """Every row needs the equal weights of its seed."""

    name = "gradnorm-alpha"
    arms: Mapping[str, Arm] = {
        **method_arms(alpha=0.3),
        "gradnorm": Arm(
            "gradnorm",
            BUILT_IN["gradnorm"].summary,
            BUILT_IN["gradnorm"].method,
            BUILT_IN["gradnorm"].options,
            search={"alpha": ALPHAS},
            requires=("equal",),
        ),
    }

    def has_papers_data(self) -> bool:
        """Never: the paper's is NYUv2."""
        return False


recipe = Recipe(
    name="gradnorm-alpha",
    summary="GradNorm's gain over equal weights for alpha from 0 to 3, on 40x40 faces.",
    problem=Alphas,
    arms=("equal", *("gradnorm" if alpha == 1.5 else f"gradnorm:alpha={alpha:g}" for alpha in ALPHAS)),
    seeds=5,
    paper="GradNorm (2018), supplement 7.1, figure 7",
    departures=(*OPEN, "MTFL at 40x40, not NYUv2: five losses, not three."),
    scales={
        "smoke": {"epochs": 1, "seeds": 1, "data": "made", "train": 64},
        "small": {"epochs": 8, "seeds": 3},
        "full": {"epochs": 50, "seeds": 5},
    },
)
