"""Processes that start at once: a server that has imported torch forks them, one for all tests of a run.

A fork of the tests' own process would not do: after a backward pass torch refuses to go on in one.
"""

import multiprocessing
from collections.abc import Callable, Sequence
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


def ended(processes: Sequence[BaseProcess], seconds: float = 300.0) -> list[int | None]:
    """Their exit codes, once all have ended; AssertionError if one hangs, which is killed."""
    for process in processes:
        process.join(seconds)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
        process.join()
    assert not alive, "a process hangs"
    return [process.exitcode for process in processes]
