"""Packing: what a run folder knows in one small file, from which a run goes on anywhere.

A packed run is a ``.tar.xz`` archive of a run folder and all studies inside it: their plans, and of every
trial that has ended its settings, its result, and its first, best and last epoch (with ``--prune``, all), as
well as those in which the trainer measured something of its own, as a defense does: a claim draws it.
Weights, steps, pictures and logs stay behind. Unpacked, it is a run folder: its trials count as done, and
whatever is added is run.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from manyloss.lab import checks
from manyloss.lab.runs import storage

#: How a packed run's file ends.
SUFFIX = ".tar.xz"
#: Of a study; those of a user's own files are kept whole, in the folder ``source``.
_OF_A_STUDY = ("study.json", "tuning.json", "pareto.json", "step_time.json")
_OF_A_TRIAL = ("settings.json", "result.json", "epochs.jsonl")
_SOURCE = "source"


class Packed(NamedTuple):
    """How many trials are in the file, and how many were left out since they have not ended."""

    trials: int
    unfinished: int


def pack(root: Path, path: Path) -> Packed:
    """Write the run folder ``root`` into the file ``path``, the same bytes for the same folder.

    A trial whose weights others need is trained again where one of those is missing. A teacher that several
    run folders share lies beside them and is not packed.

    Raises:
        LabError: ``root`` is no run folder.
        StorageError: a file is damaged, or cannot be written.

    """
    if not root.is_dir():
        raise checks.no_run_folder(root)
    if not _is_begun(root):
        raise checks.not_a_run_folder(root)
    files = _files_in(root)
    content = {name: file.read_bytes() for name, file in files.items() if file.name not in _OF_A_TRIAL}
    trials = [file.parent for file in files.values() if file.name == "settings.json"]
    results = {folder: storage.read_result(folder) for folder in trials}
    ended = {folder: result for folder, result in results.items() if result is not None}
    # What is pruned is measured against every epoch of those before.
    whole = bool((storage.read_json(root / "tuning" / "tuning.json") or {}).get("prune"))
    for folder, result in ended.items():
        inside = folder.relative_to(root).as_posix()
        for file in ("settings.json", "result.json"):
            content[f"{inside}/{file}"] = (folder / file).read_bytes()
        if epochs := _epochs(folder / "epochs.jsonl", result.get("best_epoch"), whole=whole):
            content[f"{inside}/epochs.jsonl"] = epochs
    storage.make_folder(path.parent)
    storage.write_bytes(path, _archive(content))
    return Packed(len(ended), len(trials) - len(ended))


def unpack(path: Path, root: Path) -> bool:
    """Make ``root`` the run folder that was packed; False, and nothing done, where it is one already.

    Raises:
        LabError: the file is no packed run.
        StorageError: it cannot be read, or the folder not be written.

    """
    if _is_begun(root):
        return False
    if root.exists() and (not root.is_dir() or any(item.name != ".lock" for item in root.iterdir())):
        raise checks.occupied(root)
    content = _content_of(path)
    with storage.whole_folder(root) as partial:
        for name, of_file in content.items():
            storage.make_folder((partial / name).parent)
            storage.write_bytes(partial / name, of_file)
    return True


def _is_begun(root: Path) -> bool:
    """A comparison whose rows are still tuned has no study.json of its own yet."""
    return (root / "study.json").is_file() or (root / "tuning" / "tuning.json").is_file()


def _files_in(root: Path) -> dict[str, Path]:
    """What may be packed, by its name in the archive, in the order of names."""
    found = {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*"))}
    return {name: file for name, file in found.items() if _is_ours(name) and file.is_file()}


def _is_ours(name: str) -> bool:
    """Whether a file of this name may be in a packed run. Hidden ones are left behind by killed writers."""
    inside = PurePosixPath(name)
    known = inside.name in (*_OF_A_STUDY, *_OF_A_TRIAL) or inside.parent.name == _SOURCE
    stays = not inside.is_absolute() and not any(part.startswith(".") for part in inside.parts)
    return known and stays and not any(sign in name for sign in ":\\\0")


def _epochs(path: Path, best: int | None, *, whole: bool) -> bytes:
    """The lines of the first, the best and the last epoch, and of those with ``along``; or all."""
    lines = [line for line in path.read_bytes().splitlines() if line.strip()] if path.exists() else []
    records = [*storage.read_lines(path)]
    epochs = [record.get("epoch") for record in records]
    kept = set(range(len(epochs)))
    if not whole:
        kept &= {0, len(epochs) - 1, epochs.index(best) if best in epochs else 0}
        kept |= {place for place, record in enumerate(records) if record.get("along")}
    return b"".join(lines[place] + b"\n" for place in sorted(kept))


def _archive(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(content):
            member = tarfile.TarInfo(name)
            member.size = len(content[name])
            archive.addfile(member, io.BytesIO(content[name]))
    return buffer.getvalue()


def _content_of(path: Path) -> dict[str, bytes]:
    """By name; an error for a file with anything but what `pack` writes: it may lead anywhere."""
    content = {}
    try:
        with tarfile.open(path, mode="r:xz") as archive:
            for member in archive:
                opened = archive.extractfile(member) if member.isreg() and _is_ours(member.name) else None
                if opened is None:
                    raise checks.not_packed(path, f"it holds {member.name[:60]!r}")
                content[member.name] = opened.read()
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError) as error:
        raise checks.not_packed(path, str(error)) from error
    if not {"study.json", "tuning/tuning.json"} & content.keys():
        raise checks.not_packed(path, "it holds no study.json")
    return content
