"""Text made fit for a terminal or a page: what would steer a terminal is replaced, and long lists are cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

#: How many of many losses, metrics or options one line shows.
FEW = 6

REPLACEMENT = "\ufffd"
#: Control characters, halves of surrogate pairs, and marks that reorder what is shown.
_STEERING = {"Cc", "Cs"}
_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: object) -> str:
    """The text, with every character that is no text replaced; line breaks and tabs stay."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        REPLACEMENT
        if letter not in "\n\t"
        and (unicodedata.category(letter) in _STEERING or unicodedata.bidirectional(letter) in _REORDERING)
        else letter
        for letter in text
    )


def few(values: Sequence[str], between: str, limit: int = FEW) -> str:
    """The first of many values, and how many more there are."""
    more = [f"and {len(values) - limit} more"] if len(values) > limit else []
    return between.join([*values[:limit], *more])
