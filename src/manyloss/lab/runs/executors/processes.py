"""The default executor: trials in processes of their own on this machine.

A worker is an ordinary subprocess, so that a problem may have processes of its own (workers of a DataLoader).
It is kept from trial to trial, since importing torch takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from manyloss.lab.runs import storage
from manyloss.lab.runs.executors import Ended
from manyloss.lab.runs.executors.words import how_it_ended
from manyloss.lab.runs.trial import TrialSpec, thread_variables


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    threads: int
    answers: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    free: bool = True

    def listen(self) -> None:
        """Take in the answers, in a thread."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    self.answers.put(json.loads(line))

    def poll(self) -> Ended | None:
        ended = self.process.poll()
        try:
            answer = self.answers.get(timeout=0.2 if ended is not None else 0.0)
        except queue.Empty:
            return None if ended is None else Ended(lost=how_it_ended(ended))
        self.free = True
        return Ended(stop=answer["why"]) if answer["kind"] == "stop" else Ended()

    def hang_up(self) -> None:
        """Tell it that nothing comes any more."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def stop(self) -> None:
        self.hang_up()
        self.process.terminate()
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Processes:
    """So many workers as ``capacity`` says, started when they are needed."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._workers: list[_Worker] = []

    def start(self, spec: TrialSpec) -> _Worker:
        """In an idle worker, or in a new one."""
        for dead in [worker for worker in self._workers if worker.process.poll() is not None]:
            dead.hang_up()
            self._workers.remove(dead)
        idle = (worker for worker in self._workers if worker.free and worker.threads == spec.threads)
        worker = next(idle, None) or self._new(spec)
        worker.free = False
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead: `poll` will say so
            worker.process.stdin.write(spec.to_json() + "\n")
            worker.process.stdin.flush()
        return worker

    def close(self) -> None:
        """End the idle workers; the running ones were stopped before."""
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=5.0)
            worker.stop()
        self._workers.clear()

    def _new(self, spec: TrialSpec) -> _Worker:
        storage.make_folder(spec.folder)
        # What it says before a trial's own log is open: an import that fails.
        errors = storage.open_to_append(spec.folder / "log.txt")
        try:
            process = subprocess.Popen(
                # -P: a file in the current folder must not stand in for a module.
                [sys.executable, "-P", "-m", "manyloss.lab.runs.worker", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env={**os.environ, **thread_variables(spec.threads)},
            )
        finally:
            os.close(errors)
        worker = _Worker(process, spec.threads)
        threading.Thread(target=worker.listen, daemon=True).start()
        self._workers.append(worker)
        return worker
