"""The report's first section where the run is a paper's claim: the verdict, why, and every check."""

from __future__ import annotations

from dataclasses import dataclass

from manyloss.lab import checks
from manyloss.lab.analysis.results import RunRecord
from manyloss.lab.claims import check_cells
from manyloss.lab.runs import storage

FILE = "claim.json"


@dataclass(frozen=True)
class JudgedClaim:
    """What the section shows."""

    says: str
    paper: str
    verdict: str
    facts: str
    why: tuple[str, ...]
    #: The outcome of each, and its cells: mark, sentence, measured, against, difference with its interval.
    checks: tuple[tuple[str, tuple[str, str, str, str, str]], ...]


def read(run: RunRecord) -> JudgedClaim | None:
    """The verdict that `reproduce` kept in the run folder; None where there is none.

    Raises:
        StorageError: the file is damaged.

    """
    kept = storage.read_json(run.folder / FILE)
    if kept is None:
        return None
    try:
        seeds = int(kept["seeds"])
        setting = "the paper's own setting" if kept["papers_setting"] else "not the paper's setting"
        counted = f"{seeds} seed{'' if seeds == 1 else 's'}"
        return JudgedClaim(
            says=str(kept["says"]),
            paper=str(kept["paper"]),
            verdict=str(kept["verdict"]),
            facts=f"{setting}, scale {kept['scale']}, {counted}, rule {kept['rule']}",
            why=tuple(map(str, kept.get("why", ()))),
            checks=tuple((str(check["outcome"]), check_cells(check)) for check in kept["checks"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise checks.damaged(run.folder / FILE, error) from error
