"""GradNorm 2018, supplement 7.2 and table 3: five landmarks and four attributes of faces, 40x40 and 160x160.

Landmarks in pixels have a loss and gradients far larger than the attributes' cross-entropies. The paper finds
that GradNorm takes weight from the landmarks (to 0.01 or less) at no cost to them, and has lower errors in
gender and smile than equal and uncertainty weights; glasses and pose stay with the majority whatever is done.

**Networks.** 40x40: TCDCN. 160x160: its deeper version. FC-100 is the last shared layer, W.
**Rows.** equal, uncertainty, gradnorm (alpha 0.3 at 40x40, 0.2 at 160x160); and, not in the table,
gradnorm-static and single:landmarks, which like Zhang et al. (2014) looks at the landmarks only.

`_mtfl` has the data, the losses and the errors, and what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._mtfl import OPEN, MtflFaces, method_arms

ARMS = ("single:landmarks", "equal", "uncertainty", "gradnorm", "gradnorm-static")
DEPARTURES = (
    *OPEN,
    "Zhang et al.'s own row, which stops attributes early, is not trained: the paper's numbers for it stand "
    "beside single:landmarks.",
)
SMOKE: Mapping[str, Any] = {"epochs": 2, "seeds": 1, "data": "made", "train": 64}


class Faces40(MtflFaces):
    """TCDCN on 40x40 pixels."""

    name = "gradnorm-mtfl"


class Faces160(MtflFaces):
    """The deeper network on 160x160 pixels."""

    name = "gradnorm-mtfl-160"
    arms = method_arms(alpha=0.2)

    def __init__(self, size: int = 160, **options: Any) -> None:
        super().__init__(size=size, **options)


recipes = (
    Recipe(
        name="gradnorm-mtfl",
        summary="Landmarks, gender, smile, glasses and pose of 40x40 faces: who gets the weight?",
        problem=Faces40,
        arms=ARMS,
        seeds=5,
        paper="GradNorm (2018), supplement 7.2, table 3, 40x40",
        departures=(*DEPARTURES, "Small is 15 epochs and three seeds, full 100 epochs and five."),
        gpu_scales=(),
        scales={"smoke": SMOKE, "small": {"epochs": 15, "seeds": 3}, "full": {"epochs": 100, "seeds": 5}},
    ),
    Recipe(
        name="gradnorm-mtfl-160",
        summary="Landmarks, gender, smile, glasses and pose of 160x160 faces, in a deeper network.",
        problem=Faces160,
        arms=ARMS,
        seeds=5,
        paper="GradNorm (2018), supplement 7.2, table 3, 160x160",
        departures=(
            *DEPARTURES,
            "Convolutions are padded: without padding nothing would be left of the image at the ninth layer.",
            "Small is half of the channels, 2,000 of the training faces, 8 epochs and three seeds; full all "
            "channels and faces, 50 and five.",
        ),
        scales={
            "smoke": {**SMOKE, "size": 40},
            "small": {"epochs": 8, "seeds": 3, "train": 2000, "width": 8},
            "full": {"epochs": 50, "seeds": 5},
        },
    ),
)
