"""The executor asked for in one word: ``processes``, ``slurm:slurm_partition=gpu``, ``ray:address=auto``."""

from __future__ import annotations

import ast
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks
from manyloss.lab.runs.executors import Executor, Lent
from manyloss.lab.runs.executors.processes import Processes

if TYPE_CHECKING:
    from manyloss.lab.runs.study import Study

KNOWN = ("processes", "ray", "slurm")


class Lending:
    """One executor for all studies of a command, made for the first trial that is missing, closed at the end.

    Idle workers stay between studies, and importing torch takes seconds.

    Args:
        asked: an executor, or its name with its options as `executor_named` takes it.
        root: the run folder.

    """

    def __init__(self, asked: str | Executor, root: Path) -> None:
        self.asked, self.root = asked, root
        self._owned: Executor | None = None if isinstance(asked, str) else asked

    def __enter__(self) -> Lending:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned is not None:
            self._owned.close()

    def to(self, study: Study, *, retry: bool = False) -> Executor | None:
        """The executor, as long as this study runs; None where there has been nothing to run yet.

        With ``retry`` a crashed trial is to be run, too.
        """
        if self._owned is None and (study.missing() or (retry and study.crashed())):
            self._owned = executor_named(str(self.asked), study.jobs, self.root)
        return None if self._owned is None else Lent(self._owned)


def executor_named(text: str, capacity: int, root: Path) -> Executor:
    """The executor written as ``name`` or ``name:option=value:...``.

    Args:
        text: its name with its options.
        capacity: trials at a time.
        root: the run folder.

    Raises:
        LabError: an unknown name or option, or its package is not installed.

    """
    name, *parts = text.split(":")
    options = {option: _value(value) for option, _, value in (part.partition("=") for part in parts)}
    if name == "processes":
        if options:
            raise checks.not_executor_options(name, options, "it has none; --jobs says how many")
        return Processes(capacity)
    if name == "slurm":
        from manyloss.lab.runs.executors.slurm import Slurm

        cluster = str(options.pop("cluster", "slurm"))
        return Slurm(capacity, root / "jobs", cluster=cluster, parameters=options)
    if name == "ray":
        from manyloss.lab.runs.executors.ray import Ray

        return Ray(capacity, **options)
    raise checks.LabError(f"There is no executor {name!r}. {checks.closest(name, KNOWN)}")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
