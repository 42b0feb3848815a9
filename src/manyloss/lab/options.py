"""What a problem is made with: the options that ``--option`` may give, and of which kind each is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from manyloss.lab import checks

#: What an annotation is called in an error. An option with another one may have any value. `Sequence` stands
#: for any number of numbers.
_KINDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "none",
    Sequence: "numbers in brackets",
}


def options_of(make: Callable[..., Any]) -> tuple[str, ...] | None:
    """The options a problem is made with; through ``**options`` those of the class it extends, too.

    None: whatever it is given.
    """
    taken, are_all = _taken(make)
    return tuple(taken) if are_all else None


def check_kinds(what: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse a value of another kind than the option's annotation says.

    Raises:
        LabError: there is one; the option is named.

    """
    taken, _ = _taken(make)
    for name, value in options.items():
        kinds = _kinds_in(taken[name].annotation) if name in taken else ()
        if kinds and not any(_is_of(value, kind) for kind in kinds):
            raise checks.other_kind(what, name, value, [_KINDS[kind] for kind in kinds])


def check_sizes(what: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse a number that is below 0 or without end, and a whole one of 0 unless that is the default.

    All numbers of a recipe are counts, sizes, shares and rates.

    Raises:
        LabError: there is one; the option is named.

    """
    taken, _ = _taken(make)
    for name, value in options.items():
        kinds = _kinds_in(taken[name].annotation) if name in taken else ()
        if not {int, float} & set(kinds) or not isinstance(value, Real):
            continue
        lowest = 1 if float not in kinds and taken[name].default != 0 else 0
        if not lowest <= float(value) < math.inf:
            raise checks.no_size(what, name, value, lowest)


def _taken(make: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Every option, its annotation evaluated; and whether these are all that there are."""
    if isinstance(make, partial):
        return _taken(make.func)
    makers, before = [make], 0
    if isinstance(make, type):
        own = [vars(each) for each in make.__mro__ if each is not object]
        makers, before = [each["__init__"] for each in own if "__init__" in each], 1  # self
    found: dict[str, inspect.Parameter] = {}
    for maker in makers:
        taken = list(inspect.signature(maker).parameters.values())[before:]
        hints = _hints_of(maker)
        for each in taken:
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
                found.setdefault(each.name, each.replace(annotation=hints.get(each.name)))
        if not any(each.kind is each.VAR_KEYWORD for each in taken):
            return found, True
    return found, not makers


def _hints_of(maker: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(maker)
    except Exception:  # an annotation may be any text; then nothing is known
        return {}


def _kinds_in(annotation: Any) -> tuple[Any, ...]:
    """The kinds that an annotation allows; none where it is not made of those that are known."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        parts = [_kinds_in(each) for each in inside]
        return sum(parts, ()) if all(parts) else ()
    if origin in (list, tuple, Sequence, Iterable):
        return (Sequence,) if inside and set(inside) <= {int, float, ...} else ()
    found = [type(each) for each in inside] if origin is Literal else [annotation]
    are_known = all(any(each is kind for kind in _KINDS) for each in found)
    return tuple(dict.fromkeys(found)) if are_known else ()


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is Sequence:
        return isinstance(value, list | tuple) and all(_is_of(each, float) for each in value)
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))
