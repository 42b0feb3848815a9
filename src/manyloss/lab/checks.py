"""Every error text of the lab: each names the thing, what was received and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """An error the user can act on: the command line prints its text in red, without a traceback."""


def closest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the known name nearest to ``name``, or lists the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names) or 'none'}."


# -- problems ---------------------------------------------------------------------------------------------


def not_written(problem: str, what: str, way_out: str) -> LabError:
    """A Problem lacks a part that every problem must have."""
    return LabError(f"{problem} has no {what}. {way_out}")


def unknown_loss(problem: str, name: str, known: Iterable[str]) -> LabError:
    """An arm or metric names a loss that the problem does not have."""
    return LabError(f"{problem} has no loss {name!r}. {closest(name, known)}")


def no_direction(problem: str, metric: str, kind: str) -> LabError:
    """A metric does not say whether higher or lower is better."""
    return LabError(
        f"{problem}: metric {metric!r} ({kind}) does not say whether higher is better. "
        f"Set `higher_is_better = True` or `False` on its class."
    )


# -- recipes and arms -------------------------------------------------------------------------------------


def unknown_recipe(name: str, known: Iterable[str]) -> LabError:
    """There is no recipe of this name."""
    return LabError(
        f"There is no recipe {name!r}. {closest(name, known)} "
        f"`manyloss recipes` lists them; your own problem is given as a file: my_problem.py."
    )
