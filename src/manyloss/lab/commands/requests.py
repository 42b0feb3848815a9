"""What was asked for: a problem and its defaults, methods, seeds, fractions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks

if TYPE_CHECKING:
    from manyloss.lab.problem import Problem
    from manyloss.lab.runs.source import Source


DEFAULT_METHODS = ("equal", "gradnorm", "graddrop", "pcgrad", "mgda", "cosreg")
DEFAULT_SEEDS = 5
#: More seeds than this are a slip.
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Request:
    """A source with its defaults, and the words that make its default folder its own."""

    source: Source
    name: str
    methods: Sequence[str] = DEFAULT_METHODS
    seeds: int = DEFAULT_SEEDS
    epochs: int | None = None
    words: Sequence[str] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def request_of(
    problem: str | Path | type[Problem],
    *,
    data: str | None,
    data_root: str | Path | None,
    options: Mapping[str, Any] | None,
    scale: str | None,
    script: Any = None,
) -> Request:
    """The recipe of this name, or the file, with the options of the command line."""
    from manyloss.lab.recipes import recipe_named
    from manyloss.lab.runs.source import Source

    options = dict(options or {})
    words = [f"{name}-{value}".replace("/", "-") for name, value in options.items()]
    if data is not None:
        options["data"] = data
    if data_root is not None:
        options["data_root"] = str(Path(data_root).resolve())
    words = [*([] if data is None else [data]), *words]
    where = _file_of(problem) if isinstance(problem, type) else str(problem)
    if where.endswith(".py") or Path(where).is_file():
        path = Path(where).resolve()
        if scale is not None:
            raise checks.not_options(
                path.name, ["scale"], "only recipes have scales. Use --epochs and --seeds."
            )
        if script is not None and options:
            raise checks.not_options(path.name, options, "a script gets its own arguments, behind --.")
        return Request(Source(str(path), options, script=script), path.stem, words=words)
    recipe = recipe_named(where)
    if script is not None:
        raise checks.not_options(f"Recipe {where!r}", ["metric"], "only scripts need it.")
    size = dict(recipe.scales.get(scale, {})) if scale is not None else {}
    if scale is not None:
        if scale not in recipe.scales:
            raise checks.unknown_scale(recipe.name, scale, recipe.scales)
        words.append(scale)
    seeds = size.pop("seeds", recipe.seeds)
    epochs = size.pop("epochs", recipe.epochs)
    notes = {
        "summary": recipe.summary,
        "paper": recipe.paper,
        "departures": list(recipe.departures),
        "scale": scale,
        "sized for a GPU": scale in recipe.gpu_scales,
    }
    source = Source(recipe.name, {**size, **options})
    return Request(source, recipe.name, recipe.arms, seeds, epochs, words, notes)


def _file_of(problem: type[Problem]) -> str:
    module = sys.modules.get(problem.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        raise checks.no_file_of(problem.__name__)
    return str(file)


def script_of(metrics: Sequence[str], launch: str, arguments: Sequence[str]) -> Any:
    """How a script is called; None when nothing says that it is one."""
    from manyloss.lab.scripts import ScriptCall

    return ScriptCall.of(metrics, launch, arguments) if metrics or launch or arguments else None


def split_methods(methods: str | Sequence[str]) -> list[str]:
    """The methods of a comma-separated list; commas inside brackets stay."""
    if not isinstance(methods, str):
        return [str(method) for method in methods]
    parts, depth = [""], 0
    for letter in methods:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def choose_seeds(seeds: int | str | Sequence[int]) -> list[int]:
    """``5`` is the seeds 0 to 4; ``0,1,7`` are those three; ``7,`` is the one seed 7."""
    text = seeds if isinstance(seeds, str) else ""
    try:
        if isinstance(seeds, int) or (text and "," not in text):
            count = int(seeds)  # type: ignore[arg-type]
            numbers = list(range(count)) if 1 <= count <= MOST_SEEDS else []
        else:
            parts = [part for part in text.split(",") if part.strip()] if text else seeds
            numbers = [int(part) for part in parts]
    except (ValueError, TypeError):
        numbers = []
    if not numbers or min(numbers) < 0 or max(numbers) >= 2**32 or len(numbers) > MOST_SEEDS:
        raise checks.not_seeds(str(seeds), MOST_SEEDS)
    return numbers


def as_fraction(text: float | str) -> float:
    """``0.005``, ``"0.005"`` and ``"0.5%"`` are the same."""
    try:
        words = str(text).strip()
        value = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise checks.not_a_fraction(str(text))
    return value
