"""The executor asked for in one word: ``processes``, ``slurm:slurm_partition=gpu``, ``ray:address=auto``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from manyloss.lab import checks
from manyloss.lab.runs.executors import Executor
from manyloss.lab.runs.executors.processes import Processes

KNOWN = ("processes", "ray", "slurm")


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
