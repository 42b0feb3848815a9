"""The papers' experiments, one file each.

A module here that sets ``recipe = Recipe(...)`` is found by itself.
A module with several experiments of one paper's figure sets ``recipes = (Recipe(...), Recipe(...))``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from manyloss.lab import checks
from manyloss.lab.problem import Problem


@runtime_checkable
class OnSubstitutes(Protocol):
    """A recipe's problem that also runs on other data, or at another size, than its paper."""

    def has_papers_data(self) -> bool:
        """Whether this is the data that the paper used, and all of it."""
        ...


def has_papers_data(problem: Problem) -> bool:
    """Whether the problem is the paper's own; one that knows no substitute always is."""
    return problem.has_papers_data() if isinstance(problem, OnSubstitutes) else True


@dataclass(frozen=True)
class Recipe:
    """One experiment: a problem, its default arms and seeds, and where it departs from its paper.

    ``problem`` is called with the options of the command line (``--data mnist`` gives ``data="mnist"``) and
    returns the Problem. ``scales`` maps a name of ``--scale`` to what it changes: ``epochs``, ``seeds``, and
    any option of the problem. ``gpu_scales`` are those that take days without a GPU.
    """

    name: str
    summary: str
    problem: Callable[..., Problem]
    arms: tuple[str, ...]
    seeds: int = 5
    epochs: int | None = None
    paper: str = ""
    departures: tuple[str, ...] = ()
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gpu_scales: tuple[str, ...] = ("full",)

    def takes(self, option: str) -> bool:
        """Whether the problem has this option, or passes on what it does not know."""
        known = inspect.signature(self.problem).parameters
        return option in known or any(each.kind is each.VAR_KEYWORD for each in known.values())


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name, sorted."""
    found: dict[str, Recipe] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        single = getattr(module, "recipe", None)
        for recipe in getattr(module, "recipes", () if single is None else (single,)):
            found[recipe.name] = recipe
    return dict(sorted(found.items()))


def recipe_named(name: str) -> Recipe:
    """The recipe, or problem of the board, of this name; an error that offers the closest one."""
    from manyloss.lab.problems import board_recipes

    recipes = {**all_recipes(), **board_recipes()}
    if name not in recipes:
        raise checks.LabError(
            f"There is no recipe {name!r}. {checks.closest(name, recipes)} "
            f"`manyloss recipes` lists them; your own problem is given as a file: my_problem.py."
        )
    return recipes[name]
