"""Where the file of a data set lies: in the data folder, or in one of the set's own name there."""

from __future__ import annotations

import os
from pathlib import Path

from manyloss.lab import checks


def find_file(name: str, file: str, data_root: str | os.PathLike[str]) -> Path:
    """``data_root/FILE`` or ``data_root/NAME/FILE``, whichever is there.

    Raises:
        DataError: neither is.

    """
    root = Path(data_root)
    folders = (root, root / name)
    found = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if found is None:
        raise checks.missing_files(name, [file], folders)
    return found
