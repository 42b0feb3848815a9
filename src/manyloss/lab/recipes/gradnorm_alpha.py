"""GradNorm 2018, supplement 7.1 and figure 7: the gain over equal weights for alpha from 0 to 3.

The gain is the mean over the losses of 1 - L_i / L_i(equal weights) on the test images, of networks that
start from the same weights. The paper finds a gain at every alpha that it tried, largest near 1.5.

The paper's data is NYUv2 with keypoints, of which no copy can be had; here it is MTFL at 40x40, and made
rooms with the paper's own three tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from manyloss.lab.arms import BUILT_IN, Arm
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._against_a_reference import AgainstAReference
from manyloss.lab.recipes._mtfl import OPEN, MtflFaces, method_arms
from manyloss.lab.recipes.gradnorm_nyuv2_kpts import DEPARTURES, SCALES, KeypointRooms

ALPHAS = (0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0)
ROWS = ("equal", *("gradnorm" if alpha == 1.5 else f"gradnorm:alpha={alpha:g}" for alpha in ALPHAS))
SEARCH = {**BUILT_IN["gradnorm"].search, "alpha": ALPHAS}
GRADNORM = replace(BUILT_IN["gradnorm"], search=SEARCH, requires=("equal",))


class AgainstEqualWeights(AgainstAReference):
    """Every row needs the equal weights of its seed."""

    derived: Mapping[str, bool] = {AgainstAReference.GAIN: True}
    drawn_against: Mapping[str, str] = {AgainstAReference.GAIN: "alpha"}


class Alphas(AgainstEqualWeights, MtflFaces):
    """On faces."""

    name = "gradnorm-alpha"
    arms: Mapping[str, Arm] = {**method_arms(alpha=0.3), "gradnorm": GRADNORM}

    def has_papers_data(self) -> bool:
        """Never: the paper's is NYUv2."""
        return False


class RoomAlphas(AgainstEqualWeights, KeypointRooms):
    """On rooms, by the SegNet."""

    name = "gradnorm-alpha-rooms"
    arms: Mapping[str, Arm] = {"gradnorm": GRADNORM}


PAPER = "GradNorm (2018), supplement 7.1, figure 7"
recipes = (
    Recipe(
        name="gradnorm-alpha",
        summary="GradNorm's gain over equal weights for alpha from 0 to 3, on 40x40 faces.",
        problem=Alphas,
        arms=ROWS,
        seeds=5,
        paper=PAPER,
        departures=(*OPEN, "MTFL at 40x40, not NYUv2: five losses, not three."),
        gpu_scales=(),
        scales={
            "smoke": {"epochs": 1, "seeds": 1, "data": "made", "train": 64},
            "small": {"epochs": 8, "seeds": 3},
            "full": {"epochs": 50, "seeds": 5},
        },
    ),
    Recipe(
        name="gradnorm-alpha-rooms",
        summary="GradNorm's gain over equal weights for alpha from 0 to 3, on made rooms.",
        problem=RoomAlphas,
        arms=ROWS,
        seeds=3,
        paper=PAPER,
        departures=DEPARTURES,
        scales=SCALES,
    ),
)
