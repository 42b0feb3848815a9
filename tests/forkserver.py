"""Processes that start at once: a server that has imported torch forks them, one for all tests of a run.

A fork of the tests' own process would not do: after a backward pass torch refuses to go on in one.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

IMPORTED = [
    "torchmetrics",
    "sklearn.datasets",
    "manyloss.lab.runs.worker",
    "tests.distributed.training",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)


def started(function: Callable[..., object], *arguments: Any) -> BaseProcess:
    """``function`` with picklable arguments, in a process of its own."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def finished(function: Callable[..., object], *arguments: Any, seconds: float = 300.0) -> None:
    """The same, waited for; AssertionError if it hangs or fails (what it says is on stderr)."""
    process = started(function, *arguments)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError("it hangs")
    assert process.exitcode == 0
