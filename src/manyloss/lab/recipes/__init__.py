"""The papers' experiments, one file each.

A module here that sets ``recipe = Recipe(...)`` is found by itself.
A module with several experiments of one paper's figure sets ``recipes = (Recipe(...), Recipe(...))``.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from manyloss.lab import checks
from manyloss.lab.options import options_of
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
        """Whether the problem has this option."""
        known = options_of(self.problem)
        return known is None or option in known


def files_of(package: ModuleType) -> tuple[str, ...]:
    """The modules of a folder of recipes that are not shared by others, by their full names."""
    found = pkgutil.iter_modules(package.__path__)
    return tuple(f"{package.__name__}.{each.name}" for each in found if not each.name.startswith("_"))


def recipes_in(files: Iterable[str]) -> dict[str, Recipe]:
    """The recipes of these modules by name, sorted."""
    modules = [importlib.import_module(file) for file in files]
    found: list[Recipe] = []
    for module in modules:
        single = getattr(module, "recipe", None)
        found += getattr(module, "recipes", () if single is None else (single,))
    return {each.name: each for each in sorted(found, key=lambda each: each.name)}


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name, sorted."""
    return recipes_in(files_of(sys.modules[__name__]))


def recipe_named(name: str) -> Recipe:
    """The recipe, or problem of the board, of this name; an error that offers the closest one.

    A file whose name begins the recipe's is looked at first: others import what this one may not need.
    """
    from manyloss.lab import problems

    files = (*files_of(sys.modules[__name__]), *files_of(problems))
    likely = [file for file in files if name.replace("-", "_").startswith(file.rpartition(".")[2])]
    recipes = recipes_in(likely)
    if name not in recipes:
        recipes = recipes_in(files)
    if name not in recipes:
        raise checks.LabError(
            f"There is no recipe {name!r}. {checks.closest(name, recipes)} "
            f"`manyloss recipes` lists them; your own problem is given as a file: my_problem.py."
        )
    return recipes[name]
