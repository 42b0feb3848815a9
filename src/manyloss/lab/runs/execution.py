"""Executor: runs trials in processes of their own. A lost process costs at most its trial's running epoch.

Workers are started with ``spawn``, kept from trial to trial (importing torch takes seconds), ignore Ctrl-C
(the parent stops them) and end when the parent is gone, so that a killed study leaves no writer behind.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from manyloss.lab import checks
from manyloss.lab.runs import storage
from manyloss.lab.runs.progress import Display
from manyloss.lab.runs.trial import Trial, TrialSpec, write_failure

#: A trial whose process is lost (killed, out of memory, a fault in native code) goes on so many times.
LIVES = 2


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(trials: int, jobs: int | None) -> tuple[int, int]:
    """Processes, and threads in each: never more threads than cores, unless more jobs are asked for."""
    processes = max(1, min(jobs or cores(), trials))
    return processes, max(1, cores() // processes)


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection[Any, Any]
    spec: TrialSpec | None = None


@dataclass
class Execution:
    """Trials that are to be run, in this order as far as their prerequisites allow."""

    specs: Sequence[TrialSpec]
    requires: Mapping[tuple[str, int], Sequence[tuple[str, int]]]
    jobs: int
    display: Display
    _workers: list[_Worker] = field(default_factory=list)
    _lost: dict[tuple[str, int], int] = field(default_factory=dict)

    def run(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The results by (arm, seed).

        Raises:
            StorageError: the folder cannot be used; what has finished is kept.
            KeyboardInterrupt: the user has stopped it; what has finished is kept.

        """
        pending = list(self.specs)
        results: dict[tuple[str, int], dict[str, Any]] = {}
        try:
            while pending or any(worker.spec for worker in self._workers):
                self._hand_out(pending, results)
                self._listen(pending, results)
        finally:
            self._stop()
        return results

    def _hand_out(self, pending: list[TrialSpec], results: Mapping[tuple[str, int], Any]) -> None:
        unfinished = {(spec.arm, spec.seed) for spec in self.specs} - set(results)
        for spec in list(pending):
            if unfinished.intersection(self.requires.get((spec.arm, spec.seed), ())):
                continue
            idle = next((worker for worker in self._workers if worker.spec is None), None)
            if idle is None and len(self._workers) < self.jobs:
                idle = _start(spec.threads)
                self._workers.append(idle)
            if idle is None:
                return
            pending.remove(spec)
            idle.spec = spec
            with contextlib.suppress(OSError):  # it is dead: `_listen` will see
                idle.connection.send(spec)

    def _listen(self, pending: list[TrialSpec], results: dict[tuple[str, int], dict[str, Any]]) -> None:
        ready = wait(
            [worker.connection for worker in self._workers]
            + [worker.process.sentinel for worker in self._workers],
            timeout=0.5,
        )
        for worker in list(self._workers):
            alive = worker.process.sentinel not in ready
            if worker.connection in ready or not alive:
                self._hear(worker, results)
            if not alive:
                self._bury(worker, pending, results)

    def _hear(self, worker: _Worker, results: dict[tuple[str, int], dict[str, Any]]) -> None:
        """Everything a worker has said so far."""
        with contextlib.suppress(EOFError, OSError):
            while worker.connection.poll():
                kind, content = worker.connection.recv()
                spec = worker.spec
                if spec is None:
                    continue
                if kind == "progress":
                    self.display.follow(spec.label, content[0], spec.epochs, content[1])
                elif kind == "stop":
                    raise checks.StorageError(content)
                else:
                    worker.spec = None
                    results[spec.arm, spec.seed] = content
                    self.display.end(spec.label, spec.epochs, content)

    def _bury(
        self,
        worker: _Worker,
        pending: list[TrialSpec],
        results: dict[tuple[str, int], dict[str, Any]],
    ) -> None:
        """A process is gone. Its trial goes on in another one, unless it was lost before."""
        self._workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        spec = worker.spec
        if spec is None:
            return
        how = how_it_ended(worker.process.exitcode)
        key = spec.arm, spec.seed
        self._lost[key] = self._lost.get(key, 0) + 1
        if self._lost[key] < LIVES:
            self.display.again(spec.label, how)
            pending.insert(0, spec)
            return
        result = write_failure(spec, f"{how}, twice")
        results[key] = result
        self.display.end(spec.label, spec.epochs, result)

    def _stop(self) -> None:
        for worker in self._workers:
            if worker.spec is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
            else:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers.clear()


def how_it_ended(code: int | None) -> str:
    """Words for the exit code of a lost process."""
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (is there enough memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with code {code}"


def _start(threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, threads), daemon=True)
    # numpy's and scipy's own pools read the environment when they are loaded.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    theirs.close()
    return _Worker(process, ours)


# -- inside a worker --------------------------------------------------------------------------------------


def _work(connection: Connection[Any, Any], threads: int) -> None:
    """Run the trials that come, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_the_parent()
    torch.set_num_threads(threads)
    while True:
        try:
            spec = connection.recv()
        except (EOFError, OSError):
            return
        if spec is None:
            return
        kind, content = _run(spec, connection)
        with contextlib.suppress(OSError):
            connection.send((kind, content))
        if kind == "done" and content["status"] == "crashed" and spec.device != "cpu":
            # After an error on an accelerator, every later call in the same process may fail too.
            return


def _run(spec: TrialSpec, connection: Connection[Any, Any]) -> tuple[str, Any]:
    def report(done: float, losses: Mapping[str, float]) -> None:
        connection.send(("progress", (done, dict(losses))))

    try:
        storage.make_folder(spec.folder)
        with _output_to(spec.folder / "log.txt"):
            try:
                return "done", Trial(spec).run(report)
            except checks.StorageError:
                raise
            except Exception as error:
                return "done", write_failure(spec, f"{type(error).__name__}: {error}")
    except checks.StorageError as error:
        return "stop", str(error)


def _end_with_the_parent() -> None:
    """Follow the parent into death: nobody would read what this process still writes."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send all output of this process, native code's too, to the trial's log; no log if it stays empty."""
    try:
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise checks.cannot_write(path, error) from error
    kept = [os.dup(1), os.dup(2)]
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable(file=2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for number, original in zip((1, 2), kept, strict=True):
            os.dup2(original, number)
            os.close(original)
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()
