"""What the losses' gradients do to each other in a run, and what that says."""

from manyloss.diagnostics.purity import Purity, purity_of
from manyloss.diagnostics.recorder import ConflictRecorder, read_records
from manyloss.diagnostics.summary import Diagnosis, Finding, diagnose

__all__ = ["ConflictRecorder", "Diagnosis", "Finding", "Purity", "diagnose", "purity_of", "read_records"]
