"""The file of a data set: in the data folder or in one of the set's own name there, and npz files read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from PIL import Image

from manyloss.lab import checks


def find_file(name: str, file: str, data_root: str | os.PathLike[str], page: str = "") -> Path:
    """``data_root/FILE`` or ``data_root/NAME/FILE``, whichever is there.

    Args:
        name: of the data set.
        file: its name.
        data_root: where data sets are.
        page: where the official files are offered, in words.

    Raises:
        DataError: neither is.

    """
    root = Path(data_root)
    folders = (root, root / name)
    found = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if found is None:
        raise checks.missing_files(name, [file], folders, page)
    return found


def read_picture(path: Path, content: bytes | None = None) -> npt.NDArray[np.generic]:
    """The pixels of a picture, [H, W] or [H, W, C]; ``content`` is the file's, where it is in an archive.

    Raises:
        DataError: it cannot be read.

    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as opened:
            return np.asarray(opened)
    except OSError as error:
        raise checks.damaged_data(path, str(error)) from error


def read_mat(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """The variables of a mat file (to version 7.2), in the order of their names.

    Raises:
        DataError: it cannot be read, or lacks one.

    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=names)
        return [content[name] for name in names]
    except OSError as error:
        raise checks.cannot_read(path, error) from error
    except KeyError as error:
        raise checks.damaged_data(path, f"it has no {error.args[0]!r}") from error
    except (MatReadError, ValueError, TypeError, NotImplementedError) as error:
        raise checks.damaged_data(path, str(error) or type(error).__name__) from error


@contextmanager
def opened_npz(path: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of an npz file, by name; none is unpickled.

    Raises:
        DataError: the file is damaged or lacks an array, or whoever reads it says so with a ValueError.

    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            yield content
    except KeyError as error:
        raise checks.damaged_data(path, str(error.args[0])) from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise checks.damaged_data(path, str(error) or type(error).__name__) from error
