"""Why a verdict is what it is: is the paper contradicted, or was too little measured or trained to tell?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from manyloss.lab.claims.judging import Finding

#: A trial that is best in this last part of its epochs was still learning.
LAST_PART = 0.1
#: More seeds than this are not worth counting.
MANY_SEEDS = 1000
#: How a sentence begins that says why a claim was not seen, and what a table says of it.
KINDS = {
    "Contradicted here": "contradicted beyond noise",
    "Nothing to compare": "nothing to compare",
    "Hardly anything to teach": "hardly anything to teach",
    "Smaller here": "smaller than in the paper",
    "Too few seeds": "too few seeds",
    "Not known how large": "no number to compare with",
    "Trained too little": "trained too little",
}


@dataclass(frozen=True)
class Late:
    """How many of the trials, whose epoch was chosen on validation, were best in the last tenth of them."""

    late: int
    trials: int

    @classmethod
    def of(cls, best_epochs: Sequence[int], epochs: int) -> Late:
        """Counted."""
        return cls(sum(best > (1 - LAST_PART) * epochs for best in best_epochs), len(best_epochs))


def reasons(
    findings: Sequence[Finding],
    paper_numbers: Mapping[str, Mapping[str, float]],
    *,
    late: Late | None = None,
    papers_setting: bool = False,
) -> tuple[str, ...]:
    """Sentences, one for each kind of reason that there is.

    A difference as large as the paper's is seen where the interval's half width is smaller than it. What is
    not seen then is not as large here; what could not be seen says nothing about the paper. Nor does a check
    whose two sides are equal to the last bit in every seed, as they are at a floor or a ceiling.
    """
    alike = [each for each in findings if _alike(each)]
    others = [each for each in findings if not _alike(each)]
    failing = [each for each in others if each.outcome == "fails"]
    unclear = [(each, _of_paper(each, paper_numbers)) for each in others if each.outcome == "unclear"]
    wide = [(each, paper) for each, paper in unclear if paper is not None and _half(each) >= abs(paper)]
    narrow = [each for each, paper in unclear if paper is not None and _half(each) < abs(paper)]
    unknown = [each for each, paper in unclear if paper is None]
    said = []
    if alike:
        said.append(
            f"Nothing to compare: in {len(alike)} of {_checks(len(findings))} both sides are equal in every "
            "seed, as they are at a floor or a ceiling (nothing was learned, or no image withstands)."
        )
    if failing:
        elsewhere = "" if papers_setting else "; another network, more data or longer training might"
        said.append(
            f"Contradicted here: {_checks_fail(len(failing))} by more than noise, which more seeds would not "
            f"change{elsewhere}."
        )
    if wide:
        said.append(
            f"Too few seeds: in {len(wide)} of {len(unclear)} unclear checks the paper's own difference is "
            f"smaller than what ours may be off by; {_enough([_seeds_for(*pair) for pair in wide])}."
        )
    if narrow:
        said.append(
            f"Smaller here than in the paper, if there at all: in {len(narrow)} of {len(unclear)} unclear "
            "checks a difference as large as the paper's would have been seen."
        )
    if unknown:
        said.append(
            f"Not known how large: for {len(unknown)} of {len(unclear)} unclear checks the paper has no "
            "number."
        )
    if late is not None and late.trials:
        share = f"{late.late} of {late.trials} trials were best in the last tenth of their epochs"
        said.append(
            f"Trained too little: {share}, and were still learning."
            if late.late > late.trials / 2
            else f"Trained long enough for these seeds: {share}."
        )
    return tuple(said)


def kinds_of(said: Sequence[str]) -> list[str]:
    """The reasons in two words each, what weighs most first: ``["contradicted", "trained too little"]``."""
    return [kind for begins, kind in KINDS.items() if any(each.startswith(begins) for each in said)]


def _of_paper(finding: Finding, paper_numbers: Mapping[str, Mapping[str, float]]) -> float | None:
    """The paper's own difference of the check; of one that says "near", how far apart is still near."""
    check = finding.check
    if check.relation == "near":
        return check.within
    if check.in_paper is None or check.along is not None:
        return None
    own = paper_numbers.get(check.arm, {}).get(check.in_paper)
    other = (
        paper_numbers.get(check.than, {}).get(check.in_paper)
        if isinstance(check.than, str)
        else float(check.than)
    )
    return None if own is None or other is None else own - other


def _alike(finding: Finding) -> bool:
    difference = finding.difference
    return difference is not None and difference.mean == 0 and difference.half_width == 0


def _half(finding: Finding) -> float:
    half = None if finding.difference is None else finding.difference.half_width
    return math.inf if half is None else half


def _seeds_for(finding: Finding, paper: float | None) -> int | None:
    """At how many seeds the interval would be as narrow as the paper's difference is large, if it spreads so.

    The interval is t(0.975, n - 1) s / sqrt(n). None: more than are worth counting, or one seed has no s.
    """
    difference = finding.difference
    if difference is None or not difference.half_width or not paper or difference.count < 2:
        return None
    spread = difference.half_width * math.sqrt(difference.count) / stats.t.ppf(0.975, difference.count - 1)
    counts = np.arange(difference.count + 1, MANY_SEEDS + 1)
    enough = stats.t.ppf(0.975, counts - 1) * spread / np.sqrt(counts) < abs(paper)
    return int(counts[enough.argmax()]) if enough.any() else None


def _enough(seeds: Sequence[int | None]) -> str:
    known = sorted(count for count in seeds if count is not None)
    if not known:
        return "more seeds might tell"
    most = f"more than {MANY_SEEDS}" if len(known) < len(seeds) else str(known[-1])
    return f"about {known[0]}{'' if most == str(known[0]) else f' to {most}'} seeds would tell"


def _checks(count: int) -> str:
    return f"{count} check" if count == 1 else f"{count} checks"


def _checks_fail(count: int) -> str:
    return f"{_checks(count)} {'fails' if count == 1 else 'fail'}"
