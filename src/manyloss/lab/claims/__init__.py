"""Claim: a study, a paper's numbers, and the rule that turns results into a verdict.

Each claim is a file in ``rules/``, committed before its results. Results keep the rule's hash, and are judged
by no other rule. A rule holds a list of checks; each compares, over the seeds and paired by seed, an arm's
quantity with another arm's or with a number::

    [[checks]]
    says = "GradNorm beats equal weights"
    arm = "gradnorm"
    than = "equal"                      # an arm, or a number
    is = "lower"                        # or "higher", or "near" (with `within`)
    quantity = "sum of loss ratios"     # a test metric; `of` names another part of result.json

With ``along = "another quantity"`` it is their rank correlation that is compared with a number: over the
seeds of the arm, or over all arms that match a pattern such as ``"none-*"``. ``along_of`` names its part.

``[combined]`` makes a row from arms that have a metric each: ``"single task" = ["single:left",
"single:right"]``; what the problem derives from its metrics is derived from theirs.

A check holds when the 95 % interval of the difference lies on its side, fails when it lies on the other side,
and is unclear otherwise. One seed has no interval: a check of one seed is unclear at best. Checks with
``only = "full"`` compare with the paper's own numbers, which nothing but the paper's setting can meet.
"""

from manyloss.lab.claims.judging import Finding, Verdict, check_folder, folders_of_other_claims, judge
from manyloss.lab.claims.readings import Readings, readings_of
from manyloss.lab.claims.reasons import KINDS, kinds_of
from manyloss.lab.claims.rule import Check, Claim, all_claims, claim_named, read_rule, rules_of_recipe
from manyloss.lab.claims.words import MARKS, check_cells, lines_of, reasons_of_record, record_of

__all__ = [
    "KINDS",
    "MARKS",
    "Check",
    "Claim",
    "Finding",
    "Readings",
    "Verdict",
    "all_claims",
    "check_cells",
    "check_folder",
    "claim_named",
    "folders_of_other_claims",
    "judge",
    "kinds_of",
    "lines_of",
    "read_rule",
    "readings_of",
    "reasons_of_record",
    "record_of",
    "rules_of_recipe",
]
