"""``manyloss pack``, and ``--start-from`` of the commands that go on from what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyloss.lab import checks
from manyloss.lab.runs.packing import SUFFIX, Packed, unpack
from manyloss.lab.runs.packing import pack as pack_run

if TYPE_CHECKING:
    from rich.console import Console


def pack(run: str | Path, out: str | Path | None = None, *, console: Console | None = None) -> Packed:
    """Write what a run folder knows into one small file, from which others go on with ``--start-from``.

    Args:
        run: the folder that `compare`, `reproduce` or `board` wrote (of a board, a problem's).
        out: the file; ``RUN.tar.xz`` beside the folder when None.
        console: where to print what is in it.

    Returns:
        How many trials are in the file, and how many were left out since they have not ended.

    Raises:
        LabError: no run folder, a damaged one, or a file that cannot be written.

    """
    root = Path(run)
    path = root.absolute().with_name(root.absolute().name + SUFFIX) if out is None else Path(out)
    found = pack_run(root, path)
    if console is not None:
        but = f"; {found.unfinished} that have not ended are left out" if found.unfinished else ""
        size = f"{max(1, round(path.stat().st_size / 1000)):,} kB"
        console.print(
            f"{found.trials} trials of {root} are in {path} ({size}){but}.", markup=False, soft_wrap=True
        )
    return found


def start_from_packed(packed: str | Path | None, root: Path, name: str, console: Console | None) -> None:
    """Unpack what a run goes on from, where it has not begun yet.

    Args:
        packed: a file, or a folder that may have one of this name; None for nothing.
        root: the run folder.
        name: of the run, without the ending.
        console: where to say so.

    Raises:
        LabError: the file is no packed run, or ``packed`` is not there.

    """
    if packed is None:
        return
    path = Path(packed)
    in_a_folder = path.is_dir()
    if in_a_folder:
        path /= name + SUFFIX
    if not path.is_file():
        if not in_a_folder:
            raise checks.no_packed_run(path, name + SUFFIX)
        said = f"{path} is not there: {root} starts from nothing."
    elif unpack(path, root):
        said = f"{root} starts from {path}."
    else:
        said = f"{root} is there already: it goes on, and {path} is not read."
    if console is not None:
        console.print(said, style="dim", markup=False, soft_wrap=True)
