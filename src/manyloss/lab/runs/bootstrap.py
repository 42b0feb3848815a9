"""Runs the kept text of a user's script as ``__main__``, behind any launcher; it is run as a file.

A process that the script spawns (a DataLoader's worker) imports its parent's main module under the name
``__mp_main__``. It finds this module there, and in it the kept text again: the file may have been edited.
"""

import contextlib
import json
import os
import sys
import threading
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ["MANYLOSS_TRIAL"]).parent
#: What ended the script, as its own process saw it: the launcher in front only says that something did.
REASON = FOLDER / "reason.json"


def _end_without_a_trial(parent: int) -> None:
    """End when the trial is gone: nobody would read what is still written.

    The parent may be a launcher that outlives the trial; but the system takes the folder's lock from a dead
    trial.
    """

    def watch() -> None:
        while os.getppid() == parent and not _is_free(FOLDER / ".lock"):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_free(lock: Path) -> bool:
    try:
        import fcntl

        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except (ImportError, OSError):  # held; or there are no such locks here
        return False


def _start() -> tuple[str, str]:
    from manyloss.lab.runs.source import MAIN, Source

    values = json.loads(Path(os.environ["MANYLOSS_TRIAL"]).read_text(encoding="utf-8"))
    source = Source.from_dict(values["source"])
    texts = source.texts()
    sys.path[0] = str(Path(texts[MAIN].path).parent)
    sys.argv[0] = texts[MAIN].path
    source.serve()
    return texts[MAIN].path, texts[MAIN].text


def _say_why(error: Exception) -> None:
    """Of several ranks, the first: the others fail because it did."""
    from manyloss.errors import NotFiniteError

    status = "diverged" if isinstance(error, NotFiniteError) else "crashed"
    said = {"status": status, "reason": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError), REASON.open("x", encoding="utf-8") as file:
        json.dump(said, file)


def _run() -> None:
    path, text = _start()
    # A namespace of its own: what is imported here must not stand in for what the script forgot to import.
    main = ModuleType("__main__")
    main.__file__ = path
    main.__spec__ = ModuleSpec("manyloss.lab.runs.bootstrap", None)  # what a spawned process imports
    sys.modules["__main__"] = main
    try:
        _execute(path, text, vars(main))
    except Exception as error:
        _say_why(error)
        raise


def _execute(path: str, text: str, namespace: dict[str, Any]) -> None:
    exec(compile(text, path, "exec", dont_inherit=True), namespace)


if __name__ == "__mp_main__":
    kept, text = _start()
    namespace = {"__name__": __name__, "__file__": kept}
    _execute(kept, text, namespace)
    globals().update(namespace)
if __name__ == "__main__":
    _end_without_a_trial(os.getppid())
    _run()
