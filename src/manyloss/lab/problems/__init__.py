"""The board: does anything beat a tuned sum? Real problems, every method, tuned at equal budget.

A module here that sets ``recipe = Recipe(...)`` is a problem of the board, and can be compared by its name
like any recipe. `OTHERS` are recipes of papers that are on the board, too, at `SCALE`.
"""

from __future__ import annotations

import sys

from manyloss.lab.recipes import Recipe, files_of, recipes_in

#: Recipes that are on the board beside the problems here: digits, faces, objects, streets, and made rooms.
OTHERS = (
    "cosreg-two-digits",
    "gradnorm-mtfl",
    "graddrop-celeba",
    "great-mtl-cifar",
    "cosreg-sunrgbd-streets",
    "gradnorm-nyuv2-seg",
)
#: Of a paper's recipe, where nothing else is asked for: what fits two cores.
SCALE = "small"
#: What is compared when nothing else is asked for: the library's methods that need no setting of the user's.
METHODS = (
    "equal",
    "uncertainty",
    "dwa",
    "gradnorm",
    "imtl-l",
    "famo",
    "pcgrad",
    "mgda",
    "cagrad",
    "imtl-g",
    "nash-mtl",
    "fairgrad",
    "aligned-mtl",
    "upgrad",
    "graddrop",
)


def board_recipes() -> dict[str, Recipe]:
    """The problems of this folder by name, sorted."""
    return recipes_in(files_of(sys.modules[__name__]))


def problems() -> tuple[str, ...]:
    """Every problem of the board by name."""
    return (*board_recipes(), *OTHERS)
