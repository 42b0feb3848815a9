import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from manyloss.lab import LabError, Problem
from manyloss.lab.claims import all_claims, readings_of
from manyloss.lab.claims.readings import chosen, options_of_reading
from manyloss.lab.options import check_kinds, check_sizes, options_of
from manyloss.lab.recipes import all_recipes


class Sized(Problem):
    def __init__(self, width=8, **options):
        super().__init__(**options)


class SizedInData(Sized):
    def __init__(self, *, data="made", **options):
        super().__init__(**options)


class Fixed(SizedInData):
    def __init__(self, rate=0.1):
        super().__init__()


def takes_all(**options):
    return Problem()


@pytest.mark.parametrize(
    ("make", "known"),
    [
        (Problem, ()),
        (Fixed, ("rate",)),
        (lambda size, *, rate=1: Problem(), ("size", "rate")),
        (partial(Fixed, rate=0.2), ("rate",)),
        # What is passed on may be kept by a class of the user's: nobody knows.
        (SizedInData, None),
        (takes_all, None),
    ],
)
def test_options_are_those_of_every_class_they_are_passed_on_to(make, known):
    assert options_of(make) == known


def test_what_is_passed_on_ends_where_a_class_takes_no_more():
    class Other(Fixed):
        def __init__(self, depth=1, **options):
            super().__init__(**options)

    assert options_of(Other) == ("depth", "rate")


class WithKinds(Problem):
    def __init__(
        self,
        width: int = 8,
        rate: float = 0.1,
        deep: bool = False,
        data: str | None = None,
        unit: Literal["one", "two"] = "one",
        root: Path | None = None,
        sweep: Iterable[float] = (),
        given=None,
    ) -> None:
        super().__init__()


class Further(WithKinds):
    def __init__(self, heads: int = 2, **options) -> None:
        super().__init__(**options)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("width", "wide", "--option width must be a whole number, got the text 'wide'."),
        ("width", 1.5, "--option width must be a whole number, got 1.5."),
        ("width", True, "--option width must be a whole number, got True."),
        ("width", None, "--option width must be a whole number, got None."),
        ("rate", "0.1", "--option rate must be a number, got the text '0.1'."),
        ("deep", "no", "--option deep must be true or false, got the text 'no'."),
        ("deep", 1, "--option deep must be true or false, got 1."),
        ("data", 5, "--data must be a text or none, got 5."),
        ("unit", 1, "--option unit must be a text, got 1."),
        ("sweep", 0.1, "--option sweep must be numbers in brackets, got 0.1."),
        ("sweep", ["a"], "--option sweep must be numbers in brackets, got ['a']."),
        ("sweep", "0.1", "--option sweep must be numbers in brackets, got the text '0.1'."),
        ("heads", "x", "--option heads must be a whole number, got the text 'x'."),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(option, value, says):
    with pytest.raises(LabError) as caught:
        check_kinds("Recipe 'a'", partial(Further, rate=0.2), {option: value})
    assert str(caught.value) == f"Recipe 'a': {says}"


@pytest.mark.parametrize(
    "options",
    [
        {"width": 4, "rate": 1, "deep": True, "data": None, "unit": "other"},
        {"width": np.int64(4), "rate": np.float32(0.5), "data": "here", "sweep": (1, 0.5)},
        {"root": 5, "given": object()},  # nothing is known of these
        {"unknown": 1},
    ],
)
def test_other_values_pass(options):
    check_kinds("Recipe 'a'", Further, options)


def test_an_annotation_that_nobody_can_read_forbids_nothing():
    def make(width: "Nowhere"):  # type: ignore[name-defined]  # noqa: F821
        return Problem()

    check_kinds("Recipe 'a'", make, {"width": "wide"})


@pytest.mark.parametrize(
    "annotation",
    [Path, list, list[str], Literal["a", b"b"], [1, 2], Callable[[int], int], Any],
)
def test_an_annotation_of_another_kind_forbids_nothing(annotation):
    def make(width):
        return Problem()

    make.__annotations__["width"] = annotation
    for value in ("wide", -1, None, [object()]):
        check_kinds("Recipe 'a'", make, {"width": value})
        check_sizes("Recipe 'a'", make, {"width": value})


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_every_option_of_every_recipe_says_what_it_is(name):
    """Else a text would get as far as the network, and the traceback would be ours."""
    make = all_recipes()[name].problem
    for option in options_of(make) or ():
        with pytest.raises(LabError, match=rf"{option.replace('_', '.')} must be "):
            check_kinds(name, make, {option: object()})


class Recipe(Problem):
    def __init__(
        self, train: int | None = 100, attacks: int = 0, decay: float = 0.1, deep: bool = False
    ) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("option", "value", "lowest"),
    [
        ("train", -1, 1),
        ("train", 0, 1),
        ("attacks", -1, 0),
        ("decay", -0.1, 0),
        ("decay", math.nan, 0),
        ("decay", math.inf, 0),
    ],
)
def test_a_number_that_is_no_size_is_refused_by_name(option, value, lowest):
    with pytest.raises(LabError) as caught:
        check_sizes("Recipe 'a'", partial(Recipe, train=5), {option: value})
    said = f"Recipe 'a': --option {option} must be finite and at least {lowest}, got {value!r}."
    assert str(caught.value) == said


def test_sizes_pass():
    check_sizes("Recipe 'a'", Recipe, {"train": None, "attacks": 0, "decay": 0.0, "deep": False, "x": "y"})
    check_sizes("Recipe 'a'", Recipe, {"train": 1, "attacks": 3, "decay": 1, "deep": True})


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_what_a_recipe_itself_gives_passes(name):
    """Its scales, what it sets of itself, and every reading of its claims."""
    recipe = all_recipes()[name]
    own = recipe.problem.keywords if isinstance(recipe.problem, partial) else {}
    claims = [claim for claim in all_claims().values() if claim.recipe == name]
    opens = [readings_of(claim.name) for claim in claims]
    given = [own, *recipe.scales.values()]
    given += [options_of_reading(each, reading) for each in opens for reading in chosen(each, None)]
    for options in given:
        check_kinds(name, recipe.problem, options)
        check_sizes(name, recipe.problem, options)
