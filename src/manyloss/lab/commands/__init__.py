"""The commands as functions, with the same words: ``manyloss compare`` is `compare`, and so on.

Each prints to ``console`` if one is given, and returns what a program can go on with. What is slow to import
is imported where it is used: a trial's own process needs none of it.

`requests` makes a source and its defaults of the words of a command, `experiments` runs what they ask for and
shows it; every command has a file of its own beside them.
"""

from manyloss.lab.commands.boards import board
from manyloss.lab.commands.comparisons import compare, report
from manyloss.lab.commands.diagnoses import diagnose
from manyloss.lab.commands.packs import pack
from manyloss.lab.commands.reproductions import reproduce
from manyloss.lab.commands.requests import choose_seeds, split_methods

__all__ = ["board", "choose_seeds", "compare", "diagnose", "pack", "report", "reproduce", "split_methods"]
