"""The run folder on disk: whole files or none, errors that say what to do, one writer at a time.

DIR/study.json
DIR/trials/<arm>/seed-<k>/{settings.json, epochs.jsonl, steps.jsonl, checkpoint.pt, result.json, log.txt}
DIR/report.html
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from manyloss.lab import checks

if sys.platform != "win32":
    import fcntl


def trial_folder(root: Path, arm: str, seed: int) -> Path:
    """The folder of one trial. Different arms get different folders, on every file system."""
    name = quote(arm, safe=":=+").replace(":", ",")
    if name.startswith("."):
        name = "%2E" + name[1:]
    return root / "trials" / name / f"seed-{seed}"


def make_folder(folder: Path) -> None:
    """Make the folder and its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checks.cannot_write(folder, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file as a whole: a reader, or a killed writer, leaves the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise checks.cannot_write(path, error) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file as a whole with this value (NaN and infinities become null)."""
    write_bytes(path, (json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n").encode())


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one line of JSON."""
    try:
        with path.open("ab") as file:
            file.write((json.dumps(_finite(value), ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise checks.cannot_write(path, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in this file, None if there is no file; an error if the file is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except ValueError as error:
        raise checks.damaged(path, error) from error
    if not isinstance(value, dict):
        raise checks.damaged(path, TypeError(f"holds a {type(value).__name__}, not an object"))
    return value


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line; an error if it is damaged."""
    if not path.exists():
        return
    try:
        for line in path.read_bytes().splitlines():
            yield json.loads(line)
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except ValueError as error:
        raise checks.damaged(path, error) from error


def size(path: Path) -> int:
    """Bytes in the file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def cut(path: Path, length: int) -> None:
    """Drop what was written after the last checkpoint; an error if even less is there."""
    have = size(path)
    if have < length:
        raise checks.damaged(path, ValueError(f"{have} bytes, but its checkpoint knows of {length}"))
    if have > length:
        try:
            os.truncate(path, length)
        except OSError as error:
            raise checks.cannot_write(path, error) from error


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The same for equal settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def only_writer(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when the process ends, however it ends.

    Args:
        folder: an existing folder.
        wait: seconds to wait for a writer that is just ending.

    Raises:
        LabError: another process holds it.

    """
    if sys.platform == "win32":  # has no flock: there two runs in one folder are not noticed
        yield
        return
    path = folder / ".lock"
    try:
        file = path.open("ab")
    except OSError as error:
        raise checks.cannot_write(path, error) from error
    with file:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise checks.in_use(folder) from error
                time.sleep(0.1)
        yield


def _finite(value: Any) -> Any:
    """JSON has no NaN: browsers refuse it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
