"""Where a problem comes from: a recipe's name or a file. Small, and every process loads it anew.

A file, and the user's own modules that it imports, are read once. A study keeps that text in its folder, and
every trial runs it, so that a file edited meanwhile changes nothing. ``__file__`` stays the original path.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import manyloss
from manyloss.lab import checks
from manyloss.lab.arms import is_of_an_arm, set_defaults
from manyloss.lab.options import check_kinds, check_sizes, options_of
from manyloss.lab.problem import Problem
from manyloss.lab.recipes import recipe_named
from manyloss.lab.runs import storage
from manyloss.lab.scripts import ScriptCall, ScriptProblem, is_script

_OWN_CODE = str(Path(manyloss.__file__).parent)
_INSTALLED = ("site-packages", "dist-packages", "<frozen ")
_STANDARD = tuple(str(Path(sysconfig.get_path(name))) for name in ("stdlib", "platstdlib"))
#: The key of the problem's own file among the texts.
MAIN = ""


@dataclass(frozen=True)
class Text:
    """A file of the user's: where it is, what it said, and whether it is a package."""

    path: str
    text: str
    package: bool = False

    @property
    def hash(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def means_the_same(self, other: Text) -> bool:
        """Whether the two differ in comments and layout only."""
        if self.text == other.text:
            return True
        try:
            return ast.dump(ast.parse(self.text)) == ast.dump(ast.parse(other.text))
        except (SyntaxError, ValueError, RecursionError):
            return False


Texts = Mapping[str, Text]  # module name, or MAIN


@dataclass(frozen=True)
class Source:
    """A recipe's name, or the path of a Python file; ``options`` go to the problem's constructor.

    ``kept`` is the folder in which a study keeps the texts; ``held`` are texts that were read already.
    """

    where: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kept: Path | None = None
    script: ScriptCall | None = None
    held: Texts | None = field(default=None, compare=False, repr=False)

    @property
    def is_file(self) -> bool:
        """Whether this is a user's file."""
        return self.where.endswith(".py") or Path(self.where).is_absolute()

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the texts do not travel, the folder that keeps them does."""
        kept = None if self.kept is None else str(self.kept)
        script = None if self.script is None else self.script.to_dict()
        return {"where": self.where, "options": dict(self.options), "kept": kept, "script": script}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Source:
        """What `to_dict` gave."""
        kept, script = values.get("kept"), values.get("script")
        return cls(
            values["where"],
            values["options"],
            None if kept is None else Path(kept),
            None if script is None else ScriptCall.from_dict(script),
        )

    # -- texts -------------------------------------------------------------------------------------------

    def texts(self) -> Texts:
        """The file and the user's modules that it imports: as held, as kept, or as they are now."""
        if not self.is_file:
            return {}
        if self.held is not None:
            return self.held
        return read_texts(Path(self.where)) if self.kept is None else read_kept(self.kept)

    def hold(self) -> Source:
        """The same, with its texts read: they do not change any more. A script is known as one by then."""
        known = self.known_as_script()
        if known.script is None:
            return known
        written = [text.text for text in known.texts().values()]
        return replace(known, script=known.script.with_declared(written, self.where))

    def known_as_script(self) -> Source:
        """The same, with its texts read; a script is known by its own or its modules' ``lab.method()``."""
        if not self.is_file:
            return self
        texts = self.texts()
        script = self.script
        if script is None and any(is_script(each.text) for each in texts.values()):
            script = ScriptCall({})
        return replace(self, held=texts, script=script)

    def keep(self, folder: Path) -> Source:
        """Write the texts into ``folder`` (what is there already stays), from which trials will read them."""
        if not self.is_file:
            return self
        if not (folder / "source.json").exists():
            storage.make_folder(folder)
            index = {}
            for name, text in self.texts().items():
                file = Path(text.path).name if name == MAIN else f"module {name}.py"
                storage.write_bytes(folder / file, text.text.encode())
                index[name] = {**asdict(text), "text": file}
            storage.write_json(folder / "source.json", index)
        return replace(self, kept=folder, held=None)

    def identity(self) -> dict[str, Any]:
        """What decides the problem: the recipe or the content of the files, and the options.

        Where a recipe's data lie is none of it, since data sets are verified: a run can go on elsewhere.
        """
        if not self.is_file:
            options = {name: value for name, value in self.options.items() if name != "data_root"}
            return {"recipe": self.where, "options": options}
        texts = self.texts()
        modules = {name: text.hash for name, text in sorted(texts.items()) if name != MAIN}
        identity: dict[str, Any] = {
            "file": Path(self.where).name,
            "content": texts[MAIN].hash,
            "options": dict(self.options),
        }
        if self.script is not None:
            identity["script"] = self.script.to_dict()
        return {**identity, "modules": modules} if modules else identity

    def load(self) -> Problem:
        """A fresh Problem.

        Raises:
            BrokenProblemError: the user's file fails; the text is its own traceback.
            LabError: there is no such recipe or file, or not exactly one problem in it.

        """
        if self.script is not None:
            return ScriptProblem(Path(self.where).stem, self.script.metrics)
        of_arms = {name: value for name, value in self.options.items() if is_of_an_arm(name)}
        own = {name: value for name, value in self.options.items() if name not in of_arms}
        if self.is_file:
            with self.on_path():
                problem = _problem_in(self.texts(), Path(self.where), own)
            problem.name = problem.name or Path(self.where).stem
        else:
            make, name = recipe_named(self.where).problem, f"Recipe {self.where!r}"
            check_kinds(name, make, own)
            check_sizes(name, make, own)
            try:
                problem = make(**own)
            except TypeError as error:
                raise checks.unknown_options(name, own, options_of(make), error) from error
            except ValueError as error:
                raise checks.LabError(f"{name}: {error}") from error
            problem.name = problem.name or self.where
        set_defaults(problem, of_arms)
        return problem

    def all_options(self) -> dict[str, Any]:
        """What the problem is made with: what its recipe sets of itself, and ``options``."""
        if self.script is not None or self.is_file:
            return dict(self.options)
        make = recipe_named(self.where).problem
        return {**(make.keywords if isinstance(make, partial) else {}), **self.options}

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """While the user's code runs, its folder is where modules are looked for first, as for any script.

        Modules that import statements name are served as they were read (`texts`); this is for the others.
        """
        folder = str(Path(self.texts()[MAIN].path).parent) if self.is_file else ""
        added = bool(folder) and folder not in sys.path
        if added:
            sys.path.insert(0, folder)
        try:
            yield
        finally:  # what the user's code put on the path stays
            if added and folder in sys.path:
                sys.path.remove(folder)

    def serve(self) -> None:
        """Let import statements of this process find the texts, and tracebacks show them."""
        _serve(self.texts())


def as_kept(source: Source, root: Path) -> Source:
    """The source with the text that the folder keeps, if it means the same.

    Raises:
        StorageError: the file says something else by now.

    """
    kept = root / "source"
    if not source.is_file or not (kept / "source.json").exists():
        return source
    before = replace(source, kept=kept, held=None)
    if Path(source.where).resolve().parent == kept.resolve():
        return before  # what the folder keeps is asked for itself
    changes = what_changed(before.texts(), source.texts())
    if changes:
        name = Path(before.texts()[MAIN].path).name
        raise checks.source_changed(root, source.where, changes, kept / name)
    return before


def _serve(texts: Texts) -> _Kept:
    for each in texts.values():
        # A traceback shows what ran, not what the file says by then.
        lines = each.text.splitlines(keepends=True)
        linecache.cache[each.path] = (len(each.text), None, lines, each.path)
    kept = _Kept(texts)
    sys.meta_path.insert(0, kept)
    return kept


def read_texts(path: Path) -> dict[str, Text]:
    """The file, and the user's modules that its import statements reach."""
    found = {MAIN: Text(str(path), _content(path))}
    _follow(found[MAIN], MAIN, [str(path.parent), *sys.path], found)
    return found


def read_kept(folder: Path) -> dict[str, Text]:
    """What `Source.keep` wrote."""
    index = storage.read_json(folder / "source.json")
    try:
        assert index is not None
        return {
            name: Text(
                str(about["path"]), _content(folder / Path(about["text"]).name), bool(about["package"])
            )
            for name, about in index.items()
        }
    except (AssertionError, KeyError, TypeError, AttributeError) as error:
        raise checks.damaged(folder / "source.json", error) from error


def what_changed(before: Texts, now: Texts) -> list[str]:
    """In words: which files say something else, with the first lines that do. Comments do not count."""
    said = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            where = Path((old or new or Text("", "")).path).name
            said.append(f"{where} is {'new' if old is None else 'no longer imported'}")
        elif not old.means_the_same(new):
            lines = difflib.unified_diff(old.text.splitlines(), new.text.splitlines(), lineterm="", n=0)
            shown = [line[:100] for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
            more = f" and {len(shown) - 4} more lines" if len(shown) > 4 else ""
            said.append(f"{Path(new.path).name} ({' / '.join(shown[:4])}{more})")
    return said


def _follow(text: Text, name: str, places: Sequence[str], found: dict[str, Text]) -> None:
    """Add the user's modules that this text imports, and those that these import."""
    try:
        tree = ast.parse(text.text)
    except (SyntaxError, ValueError, RecursionError):
        return  # loading it says so, in the user's own traceback
    package = name if text.package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for each in names:
            _add_module(each, places, found)


def _add_module(name: str, places: Sequence[str], found: dict[str, Text]) -> None:
    """Add this module with the packages around it, if they are the user's own."""
    inside: Sequence[str] | None = places
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        full = ".".join(parts[:depth])
        try:
            spec = importlib.machinery.PathFinder.find_spec(full, inside)
        except KeyError:  # a folder without __init__.py in another one: Python asks for the imported parent
            inside = [str(Path(place, parts[depth - 1])) for place in inside or ()]
            continue
        except (ImportError, ValueError, AttributeError):
            return
        if spec is None:
            return
        if spec.origin is not None and full not in found:
            if not _is_the_users(spec.origin):
                return
            try:
                content = Path(spec.origin).read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError):
                return
            text = Text(spec.origin, content, spec.submodule_search_locations is not None)
            found[full] = text
            _follow(text, full, places, found)
        inside = spec.submodule_search_locations
        if inside is None:
            return


def _is_the_users(origin: str) -> bool:
    return (
        origin.endswith(".py")
        and not origin.startswith((_OWN_CODE, *_STANDARD))
        and not any(part in origin for part in _INSTALLED)
    )


class _Kept(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the user's modules from texts that were read before."""

    def __init__(self, texts: Texts) -> None:
        self.texts_by_name = texts

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        text = self.texts_by_name.get(fullname)
        if text is None or fullname == MAIN:
            return None
        places = [str(Path(text.path).parent)] if text.package else None
        return importlib.util.spec_from_file_location(
            fullname, text.path, loader=self, submodule_search_locations=places
        )

    def get_source(self, fullname: str) -> str:
        return self.texts_by_name[fullname].text

    def get_code(self, fullname: str) -> Any:
        text = self.texts_by_name[fullname]
        return compile(text.text, text.path, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self.texts_by_name[fullname].package


@contextmanager
def own_traceback(doing: str) -> Iterator[None]:
    """Turn an error of the user's code into a `BrokenProblemError` with a short traceback of it."""
    try:
        yield
    except checks.LabError:
        raise
    except (Exception, SystemExit) as error:
        raise checks.BrokenProblemError(short_traceback(error, doing)) from error


def where_in_the_users_code(error: BaseException) -> str:
    """``" (my_problem.py, line 12)"`` for the last frame that is the user's; nothing if none is."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own_frame(frame.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _is_own_frame(file: str) -> bool:
    return not file.startswith((_OWN_CODE, *_STANDARD)) and not any(part in file for part in _INSTALLED)


def short_traceback(error: BaseException, doing: str) -> str:
    """The traceback without our frames and those of installed packages."""
    shown = traceback.TracebackException.from_exception(error, limit=None, compact=True)
    each: traceback.TracebackException | None = shown
    while each is not None:
        own = [frame for frame in each.stack if _is_own_frame(frame.filename)]
        each.stack = traceback.StackSummary.from_list(own)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    text = f"Your problem failed while {doing}.\n" + "".join(shown.format()).rstrip()
    if isinstance(error, SystemExit):
        text += (
            "\nIt ended the program: code that reads arguments belongs under `if __name__ == '__main__':`, "
            "and options of the problem into its constructor."
        )
    return text


def _content(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise checks.LabError(
            f"There is no file {path}. Give a recipe (`manyloss recipes`) or a file with your Problem."
        ) from error
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise checks.LabError(
            f"{path} is not UTF-8 text. Save it as UTF-8; a problem is a Python file."
        ) from error


def _module_of(texts: Texts, path: Path) -> ModuleType:
    text = texts[MAIN]
    together = "".join(f"{name}\0{each.path}\0{each.hash}\0" for name, each in sorted(texts.items()))
    name = f"manyloss_problem_{hashlib.sha256(together.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.machinery.ModuleSpec(name, None, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    module.__file__ = text.path
    sys.modules[name] = module
    kept = _serve(texts)
    try:
        with own_traceback(f"{path.name} was imported"):
            exec(compile(text.text, text.path, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        sys.meta_path.remove(kept)
        raise
    return module


def _problem_in(texts: Texts, path: Path, options: Mapping[str, Any]) -> Problem:
    module = _module_of(texts, path)
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
        names = sorted(item.__name__ for item in leaves)
        what = f"has {len(names)} Problem classes ({', '.join(names)})" if names else "has no Problem class"
        raise checks.LabError(
            f"{path} {what}. Write one subclass of manyloss.lab.Problem, or set `problem = ...` at module "
            "level."
        )
    try:
        inspect.signature(leaves[0]).bind(**options)
    except TypeError as error:
        raise checks.unknown_options(leaves[0].__name__, options, options_of(leaves[0]), error) from error
    check_kinds(leaves[0].__name__, leaves[0], options)
    with own_traceback(f"{leaves[0].__name__}() was made"):
        return leaves[0](**options)
