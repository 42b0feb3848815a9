"""Warnings that a run gives once."""

from __future__ import annotations

import warnings


class Told:
    """What the user was told in this run."""

    def __init__(self) -> None:
        self._already: set[str] = set()

    def once(self, what: str, text: str) -> None:
        """Warn, unless the user was told of it before.

        Args:
            what: it is about.
            text: of the warning.

        """
        if what not in self._already:
            self._already.add(what)
            warnings.warn(text, stacklevel=5)
