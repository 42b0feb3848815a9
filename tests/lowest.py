"""Prints the lowest version of every dependency that pyproject.toml allows, for `make test-lowest`."""

import re
import tomllib
from itertools import chain
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds():
    """Name -> lowest version; a name in several extras has one."""
    lines = list(chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()))
    found = {}
    for name, version in re.findall(r"^([\w-]+)(?:\[.*\])?>=([\d.]+)$", "\n".join(lines), re.MULTILINE):
        if found.setdefault(name, version) != version:
            raise SystemExit(f"{name} has two lower bounds: {found[name]} and {version}.")
    return found


if __name__ == "__main__":
    for name, version in sorted(bounds().items()):
        print(f"{name}=={version}")
