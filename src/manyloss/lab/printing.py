"""Text that comes from files, made fit for a terminal or a page: what would steer a terminal is replaced."""

from __future__ import annotations

import unicodedata

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
