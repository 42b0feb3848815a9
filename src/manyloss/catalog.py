"""Every method by its name: what there is, and one built from text such as ``"gradnorm:alpha=0.5"``."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from manyloss.plan import Needs
from manyloss.state import Method
from manyloss.step import MultiLoss

_WORDS = {"true": True, "false": False, "none": None}
_NOT_TEXT = ("Callable", "OptimizerFactory", "Module")  # options that only Python can give


@dataclass(frozen=True)
class MethodInfo:
    """What is known about a method without running it.

    Attributes:
        name: as text gives it.
        cls: the class.
        family: "loss weighting", "gradient weighting", "aggregator" or "penalty".
        summary: one sentence.
        options: settings that text can give, with their defaults.
        required: settings without a default, which text has to give.
        per_loss: every further option is a loss's name and sets its entry of this setting; None: there are
            no further options.
        search: values worth trying, per option.
        needs: what a step has to give it, with these defaults.
        accepts: which values of a loss it can work with: "any", "0 and more", "above 0" ...
        scale: of what reaches the shared part: "sum", "mean", "convex combination", "free" (learned).
        numbers: what a weighting's numbers are: "weights", or "projection coefficients".

    """

    name: str
    cls: type[Method]
    family: str
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    per_loss: str | None = None
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    accepts: str = "any"
    scale: str = "sum"
    numbers: str = "weights"

    @property
    def cost(self) -> str:
        """What a step does beyond one plain backward, in words."""
        needs = self.needs
        return (
            "a double backward"
            if needs.differentiable
            else "the gradients of all losses"
            if needs.gradients
            else "inner products of all losses' gradients"
            if needs.gramian
            else "the norms of all losses' gradients"
            if needs.norms
            else "nothing"
        )


def methods() -> dict[str, MethodInfo]:
    """All methods by name, found from the families' ``__all__``."""
    return {info.name: info for info in map(_describe, method_classes())}


def method_classes() -> Iterator[type[Method]]:
    """The public classes that are methods, family by family."""
    from manyloss import adversarial, aggregation, penalties, weighting

    for family in (weighting, aggregation, penalties, adversarial):
        for name in family.__all__:
            found = getattr(family, name)
            if inspect.isclass(found) and issubclass(found, Method) and not inspect.isabstract(found):
                yield found


def method(text: str, *, seed: int | None = None) -> Method:
    """Build a method from text: a weighting, an aggregator or a penalty.

    Args:
        text: ``name`` or ``name:option=value:...``. Values are Python's literals, ``true``, ``false``,
            ``none`` or words; for "static" the options are the losses' names.
        seed: of a method that draws; others have none.

    Raises:
        ValueError: there is no such method, option or value; the error offers the nearest.

    """
    info, options = parse(text)
    try:
        return build(info, options, seed)
    except TypeError as error:
        raise ValueError(f"Method {info.name!r} cannot be built from {text!r}: {error}") from error


def multi_loss(*texts: str, seed: int | None = None, **settings: Any) -> MultiLoss:
    """A MultiLoss of methods written as text: one weighting and one aggregator at most, any penalties.

    Args:
        texts: as :func:`method` takes them.
        seed: of the methods that draw.
        settings: of :class:`MultiLoss`.

    Raises:
        ValueError: a method is unknown, or two of them take one place.

    """
    return placed(*[method(text, seed=seed) for text in texts], **settings)


def build(info: MethodInfo, options: Mapping[str, Any], seed: int | None = None) -> Method:
    """An object of the class, with a seed if it takes one and none is among the options."""
    if seed is not None and "seed" in inspect.signature(info.cls).parameters:
        options = {"seed": seed, **options}
    return info.cls(**options)


def placed(*methods: Method, **settings: Any) -> MultiLoss:
    """A MultiLoss with each method in its family's place.

    Raises:
        ValueError: two of them take one place.

    """
    places: dict[str, Any] = {}
    for each in methods:
        if each.family == "penalty":
            places.setdefault("penalties", []).append(each)
            continue
        place = "aggregator" if each.family == "aggregator" else "weighting"
        if place in places:
            raise ValueError(
                f"{places[place].name!r} and {each.name!r} are both {place}s, and a step has one: leave one "
                "of them out."
            )
        places[place] = each
    return MultiLoss(**places, **settings)


def parse(text: str) -> tuple[MethodInfo, dict[str, Any]]:
    """The method that text names, and the settings it gives.

    Raises:
        ValueError: there is no such method or option, or a required one is missing.

    """
    name, _, rest = text.strip().partition(":")
    known = methods()
    if name not in known:
        raise ValueError(
            f"There is no method {name!r}. {closest(name, known)} manyloss.methods() lists them all."
        )
    info = known[name]
    there = [*info.required, *info.options, "seed"]
    options: dict[str, Any] = {}
    per_loss: dict[str, Any] = {}
    for option, value in options_in(rest, there):
        if value is None:
            raise ValueError(f"Options are written name:option=value; received {option!r} in {text!r}.")
        if option in there and (option != "seed" or "seed" in inspect.signature(info.cls).parameters):
            options[option] = value_of(value)
        elif info.per_loss is not None:
            per_loss[option] = value_of(value)
        else:
            raise ValueError(f"Method {name!r} has no option {option!r}. {closest(option, there[:-1])}")
    if per_loss and info.per_loss is not None:
        options[info.per_loss] = per_loss
    missing = [option for option in info.required if option not in options]
    if missing:
        example = ":".join(f"{option}=..." for option in missing)
        raise ValueError(
            f"Method {name!r} needs {', '.join(missing)}: write {name}:{example}"
            + (f", or {name}:LOSS=...:OTHER=... for one value per loss." if info.per_loss else ".")
        )
    return info, options


def options_in(text: str, known: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """``option=value:option=value`` as pairs; None where there is no "=".

    Names may hold ":", and a known one is found whole, with any "=" in it; a value ends at the first ":"
    outside of brackets.
    """
    longest_first = sorted(known, key=len, reverse=True)
    text = text.removeprefix(":")
    while text:
        option = next((name for name in longest_first if text.startswith(name + "=")), text.partition("=")[0])
        if len(option) == len(text):
            yield option, None
            return
        rest = text[len(option) + 1 :]
        depth, end = 0, len(rest)
        for place, letter in enumerate(rest):
            depth += (letter in "([{") - (letter in ")]}")
            if letter == ":" and depth == 0:
                end = place
                break
        yield option, rest[:end]
        text = rest[end + 1 :]


def value_of(text: str) -> Any:
    """A setting's value: a literal of Python, true, false, none, or the word itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def closest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """What may have been meant, or what there is."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if found:
        return f"Did you mean {' or '.join(map(repr, found))}?"
    return f"There {'is' if len(known) == 1 else 'are'}: {', '.join(map(repr, known)) or 'none'}."


def _describe(cls: type[Method]) -> MethodInfo:
    parameters = inspect.signature(cls).parameters.values()
    written = [
        each
        for each in parameters
        if each.name != "seed" and not any(word in str(each.annotation) for word in _NOT_TEXT)
    ]
    return MethodInfo(
        name=cls.name,
        cls=cls,
        family=cls.family,
        summary=summary_of(cls),
        options={each.name: each.default for each in written if each.default is not each.empty},
        required=tuple(each.name for each in written if each.default is each.empty),
        per_loss=cls.per_loss,
        search=cls.search,
        needs=cls.needs,
        accepts=cls.accepts,
        scale=cls.scale,
        numbers=getattr(cls, "numbers", "weights"),
    )


def summary_of(cls: type) -> str:
    """The first sentence of a class's docstring."""
    paragraph = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    head, stop, _ = paragraph.partition(". ")
    return head + "." if stop else paragraph
