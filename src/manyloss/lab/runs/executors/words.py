"""How a process ended, in words."""

from __future__ import annotations

import signal

#: What usually is behind a signal.
CAUSES = {
    "SIGKILL": "the system does this when memory runs out; try fewer --jobs or a smaller batch",
    "SIGSEGV": "a fault in native code; its last lines are in log.txt",
    "SIGABRT": "native code gave up, often for want of memory; its last lines are in log.txt",
    "SIGBUS": "often a full /dev/shm or disk, or a data file that was cut while it was read",
    "SIGTERM": "someone, or a batch system at its time limit, asked it to end",
    "SIGXCPU": "a limit of processor time, see `ulimit -t`",
    "SIGHUP": "its terminal was closed",
}


def how_it_ended(code: int | None) -> str:
    """Words for the exit code of a lost process."""
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        cause = f" ({CAUSES[name]})" if name in CAUSES else ""
        return f"its process was ended by {name}{cause}"
    return f"its process ended with code {code}"
