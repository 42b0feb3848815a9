"""An example as it was in plain PyTorch: what the lines marked `# new` and `# was:` do not change.

    python examples/before.py examples/gpt.py             the plain version
    python examples/before.py examples/gpt.py | python -  runs it
    python examples/before.py examples/gpt.py --diff      what manyloss changes in it

A line that ends in `# new` goes; if it opens a `with` block, the block moves out by one level. What is
before `# was: OLD` becomes OLD. Nothing else differs, so that the change can be seen, and counted.
"""

import re
import sys
from difflib import unified_diff
from pathlib import Path

WAS = re.compile(r"^( *)(?:\S.*  )?# was: (.*)$")


def plain(text):
    """The text without manyloss."""
    lines, block = [], None  # the indentation of a `with` that goes
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if block is not None and line and indent <= block:
            block = None
        was = WAS.match(line)
        if was:
            line = was[1] + was[2]
        elif line.endswith("  # new"):
            block = indent if line.lstrip().startswith("with ") else block
            continue
        lines.append(line[4:] if block is not None else line)
    return "\n".join(lines) + "\n"


def unmarked(text):
    """The text without the marks, as one would write it."""
    return re.sub(r"^ *# was: .*\n|  # (new|was: .*)$", "", text, flags=re.MULTILINE)


def changes(text, around=1):
    """A unified diff of the plain version and this one, with so many lines around each change."""
    before, after = plain(text).splitlines(), unmarked(text).splitlines()
    return "\n".join(list(unified_diff(before, after, n=around, lineterm=""))[2:])


if __name__ == "__main__":
    source = Path(sys.argv[1]).read_text(encoding="utf-8")
    print(changes(source) if "--diff" in sys.argv else plain(source), end="")
