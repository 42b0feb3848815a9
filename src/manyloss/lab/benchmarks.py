"""`manyloss bench`: run the programs of ``benchmarks/`` and keep what they print.

Each program prints one JSON object per line for a figure. They need the repository, since benchmarks are not
part of the installed package.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from manyloss import __version__
from manyloss.lab import checks
from manyloss.lab.runs.machines import processor

FOLDER = Path(__file__).parents[3] / "benchmarks"
RESULTS = FOLDER / "results.json"


def programs() -> list[str]:
    """The names of the benchmarks.

    Raises:
        LabError: the package does not run from a checkout of the repository.

    """
    found = sorted(path.stem for path in FOLDER.glob("*.py")) if FOLDER.is_dir() else []
    if not found:
        raise checks.LabError(
            f"There are no benchmarks in {FOLDER}: they are not part of the installed package. "
            "Clone the repository and install it with pip install --editable '.[dev]'."
        )
    return found


def run(names: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Run the named benchmarks, or all, one after the other; yields each figure as it comes.

    ``results.json`` holds the last figures of every benchmark, with date and machine; one that gives none,
    for want of a GPU, keeps those it had.
    """
    known = programs()
    for name in names:
        if name not in known:
            raise checks.LabError(f"There is no benchmark {name!r}. {checks.closest(name, known)}")
    for name in names or known:
        rows = []
        command = [sys.executable, str(FOLDER / f"{name}.py")]
        # Threads that wait asleep do not fight with other programs for the cores.
        quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER, env=quiet) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    rows.append(json.loads(line))
                    yield {"benchmark": name, **rows[-1]}
        if process.returncode:
            raise checks.LabError(
                f"Benchmark {name!r} ended with exit code {process.returncode}; its output is above."
            )
        if not rows:
            continue  # it needs what is not here
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        results[name] = {
            "date": datetime.date.today().isoformat(),
            "manyloss": __version__,
            "torch": torch.__version__,
            "processor": processor(),
            "figures": rows,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
