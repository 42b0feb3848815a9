"""What runs inside a trial's own process: one trial, or with ``-`` those that come line by line on stdin.

A worker ends when its stdin does, in the middle of a trial too, so that a killed study leaves no writer
behind. It ignores Ctrl-C (its study stops it), and all output goes to the trial's log.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from manyloss.lab import checks
from manyloss.lab.runs import storage
from manyloss.lab.runs.script_trial import trial_of
from manyloss.lab.runs.trial import TrialSpec, write_failure

USAGE = (
    "python -m manyloss.lab.runs.worker SPEC  (the JSON of a TrialSpec, a file that holds it, or - for stdin)"
)


#: glibc's numbers for two settings of its allocator, and what they are set to, in bytes.
KEEP = {"M_MMAP_THRESHOLD": (-3, 1 << 30), "M_TRIM_THRESHOLD": (-1, (1 << 31) - 1)}


def main(arguments: Sequence[str]) -> int:
    """The command; what became of each trial is a line of JSON on stdout."""
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    if arguments[0] == "-":
        return _serve()
    text = arguments[0]
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    outcome = run_trial(TrialSpec.from_json(text))
    print(json.dumps(outcome), flush=True)
    return 1 if outcome["kind"] == "stop" else 0


def run_trial(spec: TrialSpec) -> dict[str, Any]:
    """Run it here: "done" with its status, or "stop" with why the whole study cannot go on."""
    torch.set_num_threads(spec.threads)
    keep_freed_memory()
    try:
        storage.make_folder(spec.folder)
        with _output_to(spec.folder / "log.txt"):
            try:
                result = trial_of(spec).run()
            except checks.StorageError:
                raise
            except Exception as error:
                result = write_failure(spec, f"{type(error).__name__}: {error}")
        return {"kind": "done", "status": result["status"]}
    except checks.StorageError as error:
        return {"kind": "stop", "why": str(error)}


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next tensors.

    glibc gives tensors of more than 32 MiB back to the system at once, and the next ones come anew, page by
    page. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for number, size in KEEP.values():
            mallopt(number, size)


def _serve() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    specs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def listen() -> None:
        # Not sys.stdin: its lock would keep the interpreter from ending.
        with open(os.dup(0), encoding="utf-8", closefd=True) as lines:
            for line in lines:
                specs.put(line)
        specs.put(None)
        if busy.is_set():
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while (line := specs.get()) is not None:
        busy.set()
        spec = TrialSpec.from_json(line)
        outcome = run_trial(spec)
        busy.clear()
        with contextlib.suppress(OSError):
            os.write(answers, (json.dumps(outcome) + "\n").encode())
        if outcome.get("status") == "crashed" and spec.device != "cpu":
            # After an error on an accelerator, every later call in the same process may fail too.
            return 0
    return 0


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send all output of this process, native code's too, to the trial's log; no log if it stays empty."""
    log = storage.open_to_append(path)
    kept = [os.dup(1), os.dup(2)]
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable(file=2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number, original in zip((1, 2), kept, strict=True):
            os.dup2(original, number)
            os.close(original)
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
