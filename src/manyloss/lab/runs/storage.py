"""The run folder on disk: whole files or none, errors that say what to do, one writer at a time.

DIR/study.json
DIR/trials/<arm>/seed-<k>/{settings.json, epochs.jsonl, steps.jsonl, checkpoint.pt, ...}
DIR/trials/<arm>/seed-<k>/{pictures.npz, result.json, log.txt}
DIR/report.html
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from manyloss.lab import checks
from manyloss.lab.pictures import Pictures
from manyloss.lab.printing import printable

if sys.platform != "win32":
    import fcntl


#: Longer names of arms are cut, and told apart by a hash: file systems allow 255 bytes.
LONGEST_NAME = 160
#: A link at the place of a file of ours is an error: it may lead anywhere.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
#: What a trial shows, and the names of its arrays; those of tasks follow a prefix.
PICTURES = "pictures.npz"
INPUTS, TRUTH, OUTPUTS = "inputs", "truth of ", "output of "


def trial_folder(root: Path, arm: str, seed: int) -> Path:
    """The folder of one trial. Different arms get different folders, on every file system."""
    name = quote(arm, safe=":=+").replace(":", ",")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}+{hashlib.sha256(arm.encode()).hexdigest()[:16]}"
    return root / "trials" / name / f"seed-{seed}"


def make_folder(folder: Path) -> None:
    """Make the folder and its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checks.cannot_write(folder, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file as a whole: a reader, or a killed writer, leaves the old file or the new one.

    The temporary name is new and unguessable, so that a link put there by someone else is not followed; a
    link at the name itself is replaced, not written through.
    """
    partial = path.with_name(f".{path.name[:60]}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
    try:
        with open(os.open(partial, flags, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise checks.cannot_write(path, error) from error


def open_to_append(path: Path) -> int:
    """A descriptor that adds to the end of this very file, not of one that a link leads to."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _BINARY, 0o666)
    except OSError as error:
        raise checks.cannot_write(path, error) from error


def sweep(folder: Path) -> None:
    """Remove what killed writers left; call it under the folder's lock."""
    for left in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            left.unlink()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file as a whole with this value (NaN and infinities become null)."""
    write_bytes(path, (json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n").encode())


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Add one line of JSON for each."""
    text = "".join(json.dumps(_finite(value), ensure_ascii=False) + "\n" for value in values)
    descriptor = open_to_append(path)
    try:
        with open(descriptor, "ab") as file:
            file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise checks.cannot_write(path, error) from error


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file as a whole with tensors and plain data: `load_tensors` reads them and runs no code.

    Raises:
        LabError: something else is in it.
        StorageError: the file cannot be written.

    """
    buffer = io.BytesIO()  # torch's own writer hides why it failed
    torch.save(_tensors_and_plain(value, ""), buffer)
    write_bytes(path, buffer.getvalue())


def write_pictures(path: Path, shown: Pictures) -> None:
    """Replace the file as a whole with what a problem shows: bytes, compressed."""
    named = {
        INPUTS: shown.inputs,
        **{f"{TRUTH}{task}": pictures for task, pictures in shown.truth.items()},
        **{f"{OUTPUTS}{task}": pictures for task, pictures in shown.outputs.items()},
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: found.byte().cpu().numpy() for name, found in named.items()}
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_pictures(path: Path) -> Pictures | None:
    """What `write_pictures` wrote; None where there is no file.

    Raises:
        StorageError: the file cannot be read, or holds something else.

    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            found = {name: torch.from_numpy(content[name]) for name in content.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise checks.damaged(path, error) from error
    if INPUTS not in found or not all(
        each.dtype == torch.uint8 and each.dim() in (3, 4) for each in found.values()
    ):
        raise checks.damaged(path, ValueError("holds no pictures"))

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): each for name, each in found.items() if name.startswith(prefix)}

    return Pictures(found[INPUTS], part(TRUTH), part(OUTPUTS))


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `write_tensors` wrote. Nothing in the file is run.

    Raises:
        StorageError: the file cannot be read, is damaged, or holds more than tensors and plain data.

    """
    try:
        with torch.serialization.safe_globals([Counter]):  # torch's own schedulers keep one
            value = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except Exception as error:
        raise checks.damaged(path, error) from error
    if not isinstance(value, dict):
        raise checks.damaged(path, TypeError(f"holds a {type(value).__name__}"))
    return value


def _tensors_and_plain(value: Any, where: str) -> Any:
    """The same in tensors, containers and plain values only; numpy's numbers become Python's."""
    if isinstance(value, np.generic):  # before float: numpy's float64 is one
        return value.item()
    if value is None or isinstance(value, Tensor | bool | int | float | str | bytes):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, Mapping):
        plain = {key: _tensors_and_plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        return Counter(plain) if isinstance(value, Counter) else plain
    if isinstance(value, list | tuple | deque):
        items = [_tensors_and_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise checks.LabError(
        f"A checkpoint holds tensors and plain data only, but the training's state has a "
        f"{type(value).__name__} at {where}. Give what holds it (a scheduler, an optimiser) a state_dict "
        "without it."
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in this file, None if there is no file; an error if the file is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except (ValueError, RecursionError) as error:
        raise checks.damaged(path, error) from error
    if not isinstance(value, dict):
        raise checks.damaged(path, TypeError(f"holds a {type(value).__name__}, not an object"))
    return value


#: How a trial may have ended.
STATUSES = ("finished", "diverged", "crashed", "pruned")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of the trial in this folder, None if it has none; an error if the file is damaged."""
    path = folder / "result.json"
    result = read_json(path)
    if result is None:
        return None
    if result.get("status") not in STATUSES:
        found = str(result.get("status"))[:40]
        raise checks.damaged(path, ValueError(f"status {found!r} is not one of {', '.join(STATUSES)}"))
    return {**result, "reason": None if result.get("reason") is None else printable(result["reason"])}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line. A last line cut short by a kill is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"holds a {type(value).__name__}, not an object")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise checks.damaged(path, ValueError(f"line {number}: {error}")) from error
        yield value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """By name; null is what JSON has for a number that is not finite."""
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


#: So much of the end of a log is read for the reason of a crash.
TAIL = 20_000


def size(path: Path) -> int:
    """Bytes in the file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def last_words(log: Path, since: int = 0) -> str:
    """The end of a log, from the byte ``since`` on; nothing if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, size(log) - TAIL))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise checks.cannot_write(path, error) from error


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Fill the folder that this gives, which is not there yet; then it replaces the target as a whole."""
    partial = target.with_name(f".{target.name}.partial")
    remove(partial)
    make_folder(target.parent)
    try:
        yield partial
        remove(target)
        partial.rename(target)
    except OSError as error:
        raise checks.cannot_write(target, error) from error


def copy_folder(source: Path, target: Path) -> None:
    """Make the folder a copy of another one, as a whole."""
    with whole_folder(target) as partial:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(".*"))


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


def write_settings(folder: Path, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """The settings of a trial, with their hash and where they were made."""
    record = {**settings, "hash": fingerprint(settings), "environment": environment}
    write_json(folder / "settings.json", record)


def same_settings(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether this file holds these settings already; an error if it holds others."""
    found = read_json(path)
    if found is None or "hash" not in found:
        return False
    if found["hash"] != fingerprint(settings):
        differences = [
            f"{name} was {found.get(name)!r}, now {value!r}"
            for name, value in settings.items()
            if fingerprint({"": found.get(name)}) != fingerprint({"": value})
        ]
        raise checks.other_settings(path, differences)
    return True


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
    with open(open_to_append(path), "ab") as file:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise checks.StorageError(
                        f"Another run is writing to {folder}. Wait for it to end, or choose another folder "
                        "with --out."
                    ) from error
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
