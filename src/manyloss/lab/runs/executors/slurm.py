"""Trials as jobs of a SLURM cluster, by submitit: a job is one trial, in the run folder that all share."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyloss.lab import checks
from manyloss.lab.runs.executors import Ended
from manyloss.lab.runs.trial import TrialSpec
from manyloss.lab.runs.worker import run_trial


@dataclass
class _Job:
    job: Any

    def poll(self) -> Ended | None:
        if not self.job.done():
            return None
        try:
            outcome = self.job.result()
        except Exception as error:
            # submitit's text holds the whole log of the job; its state says more in one word.
            return Ended(lost=f"its job {self.job.job_id} ended as {self.job.state} ({type(error).__name__})")
        return Ended(stop=outcome["why"]) if outcome["kind"] == "stop" else Ended()

    def stop(self) -> None:
        with contextlib.suppress(Exception):  # it may have ended, or the cluster may not answer
            self.job.cancel(check=False)


class Slurm:
    """So many jobs at a time. The folder must be one that all nodes see.

    Args:
        capacity: jobs that are queued or running at a time.
        logs: the folder of submitit's own files.
        cluster: "slurm", or "local" for processes on this machine that are started in the same way.
        parameters: as of ``submitit.AutoExecutor.update_parameters``: ``slurm_partition``, ``timeout_min``,
            ``gpus_per_node``, ``mem_gb``.

    """

    def __init__(
        self,
        capacity: int,
        logs: Path,
        *,
        cluster: str = "slurm",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise checks.no_extra("slurm", "submitit") from error
        self.capacity = capacity
        self._jobs = submitit.AutoExecutor(folder=logs, cluster=cluster)
        try:
            self._jobs.update_parameters(name="manyloss", **(parameters or {}))
        except (TypeError, NameError) as error:
            raise checks.not_executor_options("slurm", parameters or {}, error) from error

    def start(self, spec: TrialSpec) -> _Job:
        """Queue a job."""
        return _Job(self._jobs.submit(run_trial, spec))

    def close(self) -> None:
        """Jobs end by themselves."""
