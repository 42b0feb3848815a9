"""Machines: where a folder's trials were trained, and with which versions. Last bits depend on both."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyloss import __version__

#: What tells one machine from another; a new kernel is none.
_MACHINE = ("processor", "torch", "numpy", "python")


def environment(threads: int) -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "manyloss": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads_per_trial": threads,
    }


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machines_in(environment: Mapping[str, Any]) -> list[dict[str, str]]:
    """All that a study's environment names, the first that trained a part of it first."""
    several = environment.get("machines")
    known = several if isinstance(several, Sequence) and not isinstance(several, str) else [environment]
    found = [
        {name: str(each[name]) for name in _MACHINE if each.get(name) is not None}
        for each in known
        if isinstance(each, Mapping)
    ]
    return without_repeats(found)


def without_repeats(machines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Each machine once, in the order given."""
    return [each for place, each in enumerate(machines) if each and each not in machines[:place]]


def words_of_machine(machine: Mapping[str, str]) -> str:
    """Its processor and its PyTorch: 'AMD EPYC, torch 2.13.0'."""
    return f"{machine.get('processor', 'an unknown processor')}, torch {machine.get('torch', 'unknown')}"
