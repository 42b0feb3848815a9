"""Runs the kept text of a user's script as ``__main__``, behind any launcher; it is run as a file."""

import json
import os
import sys
import threading
import time


def _end_with(parent: int) -> None:
    """End when the process that started this one is gone: nobody would read what is still written."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start() -> tuple[str, str]:
    from pathlib import Path

    from manyloss.lab.runs.source import MAIN, Source

    values = json.loads(Path(os.environ["MANYLOSS_TRIAL"]).read_text(encoding="utf-8"))
    source = Source.from_dict(values["source"])
    texts = source.texts()
    sys.path[0] = str(Path(texts[MAIN].path).parent)
    sys.argv[0] = texts[MAIN].path
    source.serve()
    return texts[MAIN].path, texts[MAIN].text


if __name__ == "__main__":
    _end_with(os.getppid())
    __file__, _text = _start()
    exec(compile(_text, __file__, "exec", dont_inherit=True))
