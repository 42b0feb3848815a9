"""Trials as tasks of a Ray cluster, in the run folder that all nodes share."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from manyloss.lab import checks
from manyloss.lab.runs.executors import Ended
from manyloss.lab.runs.trial import TrialSpec
from manyloss.lab.runs.worker import run_trial


@dataclass
class _Task:
    ray: Any
    reference: Any

    def poll(self) -> Ended | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            outcome = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            return Ended(lost=f"its Ray worker was lost ({type(error).__name__})")
        return Ended(stop=outcome["why"]) if outcome["kind"] == "stop" else Ended()

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.ray.cancel(self.reference, force=True)


class Ray:
    """So many tasks at a time.

    Args:
        capacity: tasks that are queued or running at a time.
        address: of the cluster; ``"auto"`` finds the one that this machine belongs to, "local" starts one.
        gpus_per_trial: may be a fraction.

    """

    def __init__(self, capacity: int, address: str = "auto", gpus_per_trial: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise checks.no_extra("ray", "ray") from error
        self.capacity = capacity
        self.gpus = gpus_per_trial
        self._ray = ray
        # A worker is used again, as an import takes longer than a small trial; one with a GPU gives it back.
        # A lost trial is not tried again by Ray: it goes on after its last epoch.
        self._run = ray.remote(max_retries=0, max_calls=1 if gpus_per_trial else 0)(run_trial)
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(address=address, log_to_driver=False)

    def start(self, spec: TrialSpec) -> _Task:
        """Queue a task."""
        task = self._run.options(num_cpus=spec.threads, num_gpus=self.gpus)
        return _Task(self._ray, task.remote(spec))

    def close(self) -> None:
        """Leave the cluster."""
        if self._own:
            self._ray.shutdown()
