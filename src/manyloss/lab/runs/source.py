"""Where a problem comes from: a recipe's name or a file. Small, and every process loads it anew."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import manyloss
from manyloss.lab import checks
from manyloss.lab.problem import Problem
from manyloss.lab.recipes import recipe_named

_OWN_CODE = str(Path(manyloss.__file__).parent)
_INSTALLED = ("site-packages", "dist-packages", "<frozen ")


@dataclass(frozen=True)
class Source:
    """A recipe's name, or the path of a ``.py`` file; ``options`` go to the problem's constructor."""

    where: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether this is a user's file."""
        return self.where.endswith(".py")

    def identity(self) -> dict[str, Any]:
        """What decides the problem: the recipe or the file's content, and the options."""
        if self.is_file:
            content = hashlib.sha256(_content(Path(self.where))).hexdigest()[:16]
            return {"file": Path(self.where).name, "content": content, "options": dict(self.options)}
        return {"recipe": self.where, "options": dict(self.options)}

    def load(self) -> Problem:
        """A fresh Problem.

        Raises:
            BrokenProblemError: the user's file fails; the text is its own traceback.
            LabError: there is no such recipe or file, or not exactly one problem in it.

        """
        if self.is_file:
            problem = _problem_in(Path(self.where), self.options)
            problem.name = problem.name or Path(self.where).stem
        else:
            recipe = recipe_named(self.where)
            try:
                inspect.signature(recipe.problem).bind(**self.options)
            except TypeError as error:
                raise checks.not_options(f"Recipe {self.where!r}", self.options, error) from error
            problem = recipe.problem(**self.options)
            problem.name = problem.name or self.where
        return problem


@contextmanager
def own_traceback(doing: str) -> Iterator[None]:
    """Turn an error of the user's code into a `BrokenProblemError` with a short traceback of it."""
    try:
        yield
    except checks.LabError:
        raise
    except (Exception, SystemExit) as error:
        raise checks.BrokenProblemError(short_traceback(error, doing)) from error


def short_traceback(error: BaseException, doing: str) -> str:
    """The traceback without our frames and those of installed packages."""
    shown = traceback.TracebackException.from_exception(error, limit=None, compact=True)
    each: traceback.TracebackException | None = shown
    while each is not None:
        own = [
            frame
            for frame in each.stack
            if not frame.filename.startswith(_OWN_CODE)
            and not any(part in frame.filename for part in _INSTALLED)
        ]
        each.stack = traceback.StackSummary.from_list(own)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return f"Your problem failed while {doing}.\n" + "".join(shown.format()).rstrip()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise checks.no_file(path) from error
    except OSError as error:
        raise checks.cannot_read(path, error) from error


def _module_of(path: Path) -> ModuleType:
    content = _content(path)
    name = f"manyloss_problem_{hashlib.sha256(str(path).encode() + content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        with own_traceback(f"{path.name} was imported"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _problem_in(path: Path, options: Mapping[str, Any]) -> Problem:
    module = _module_of(path)
    ready = getattr(module, "problem", None)
    if isinstance(ready, Problem):
        if options:
            raise checks.not_options(path.name, options, "its problem is already made")
        # The arms change attributes: the next trial in this process must not see them.
        fresh = object.__new__(type(ready))
        fresh.__dict__.update(ready.__dict__)
        return fresh
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Problem) and item.__module__ == module.__name__
    ]
    leaves = [item for item in classes if not any(item in other.__mro__[1:] for other in classes)]
    if len(leaves) != 1:
        raise checks.no_problem(path, [item.__name__ for item in leaves])
    try:
        inspect.signature(leaves[0]).bind(**options)
    except TypeError as error:
        raise checks.not_options(leaves[0].__name__, options, error) from error
    with own_traceback(f"{leaves[0].__name__}() was made"):
        return leaves[0](**options)
