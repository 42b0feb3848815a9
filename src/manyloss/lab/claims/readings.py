"""Readings: what a paper leaves open, and under how many answers to that its claim holds.

A file of ``readings/`` lists what is open for the claims that it names. Each entry is an option with two to
four values, the first being what the recipe takes: of the recipe's problem, of an arm (``also`` names the
options of others that go along), or ``epochs``, in multiples of the scale's::

    claims = ["great-defense-*"]

    ["great.simultaneous"]
    open = "whether the auxiliary network learns in the same step as the main one"
    values = [true, false]
    also = ["great-greace.simultaneous"]

A reading is one value of each. It changes no check, so the rule and its hash stay as they are.
"""

from __future__ import annotations

import itertools
import random
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from operator import itemgetter
from statistics import fmean
from typing import Any, NamedTuple, get_args

from manyloss.lab.analysis.statistics import CONFIDENCE, Interval, means_differ
from manyloss.lab.arms import is_of_an_arm
from manyloss.lab.checks import LabError
from manyloss.lab.claims.judging import Finding, Outcome, Verdict

Settings = Mapping[str, Any]
FEWEST_VALUES, MOST_VALUES = 2, 4
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Open:
    """One thing that a paper leaves open, and the values that it may have; ``also`` have the same value."""

    option: str
    says: str
    values: tuple[Any, ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgedCheck:
    """What became of one check under one reading.

    ``margin`` is how far the means differ in the claimed direction, relative to what is compared with; below
    0 they differ in the other one. None without a result.
    """

    says: str
    outcome: Outcome
    margin: float | None
    half_width: float | None


@dataclass(frozen=True)
class Judged:
    """What became of a claim under one reading: of all its checks, from this many seeds."""

    settings: Settings
    word: str
    seeds: int
    checks: tuple[JudgedCheck, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of the checks': "fails" where any does, "holds" where all do."""
        found = {check.outcome for check in self.checks}
        from_the_worst: tuple[Outcome, ...] = ("fails", "no result", "unclear", "holds")
        return next((outcome for outcome in from_the_worst if outcome in found), "no result")

    @property
    def holds(self) -> bool:
        """Does every check?"""
        return self.outcome == "holds"

    @property
    def margin(self) -> float | None:
        """That of the weakest check; None where one has no result."""
        return None if (weakest := self._weakest()) is None else weakest[0]

    @property
    def half_width(self) -> float | None:
        """Of the weakest check's margin."""
        return None if (weakest := self._weakest()) is None else weakest[1]

    def of_check(self, says: str) -> Judged:
        """The reading as if the claim were this one check."""
        mine = [check for check in self.checks if check.says == says]
        return replace(self, checks=tuple(mine or [JudgedCheck(says, "no result", None, None)]))

    def _weakest(self) -> tuple[float, float | None] | None:
        known = [(each.margin, each.half_width) for each in self.checks if each.margin is not None]
        return min(known, key=itemgetter(0)) if known and len(known) == len(self.checks) else None


@dataclass(frozen=True)
class Readings:
    """All that was judged, the reading in force first; ``decides`` is each open thing's share of variance.

    It is empty where the margins are ``alike``: they differ by no more than those of single seeds do.
    ``crashed`` counts the trials that did, in all readings but the first, whose trials are the claim's own.
    """

    opens: tuple[Open, ...]
    judged: tuple[Judged, ...]
    decides: Mapping[str, float]
    alike: bool = False
    crashed: int = 0

    @property
    def of(self) -> int:
        """How many readings there are, judged or not."""
        count = 1
        for each in self.opens:
            count *= len(each.values)
        return count

    def by_check(self) -> dict[str, Readings]:
        """The same readings of each check alone; nothing where there is but one."""
        says = [check.says for check in self.judged[0].checks]
        if len(says) < 2:
            return {}
        return {each: summed_up(self.opens, [one.of_check(each) for one in self.judged]) for each in says}

    def count(self, outcome: Outcome) -> int:
        """Under how many readings some check came out so; for "holds", all of them."""
        if outcome == "holds":
            return sum(each.holds for each in self.judged)
        return sum(any(check.outcome == outcome for check in each.checks) for each in self.judged)

    @property
    def seeds(self) -> int:
        """That each was judged with."""
        return self.judged[0].seeds

    def __str__(self) -> str:
        seeds = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        with_result = [each for each in self.judged if each.margin is not None]
        more = "" if self.of == len(self.judged) else f", drawn from {self.of}"
        text = f"holds under {self.count('holds')} of {len(with_result)} readings{more}, with {seeds} each"
        if lost := len(self.judged) - len(with_result):
            text += f" ({lost} more without a result)"
        if self.alike:
            return f"{text}; they differ by no more than noise"
        if (most := self.decides_most()) is None:
            enough = enough_to_decide(self.opens)
            few = self.of >= enough > len(with_result)
            return f"{text}; to say what decides takes {enough}" if few else text
        overlap = "; in a draw the shares overlap" if more else ""
        return f"{text}; what decides most is {most[0]} ({most[1]:.0%} of the variance{overlap})"

    def decides_most(self) -> tuple[str, float] | None:
        """What is open that explains most of the margins, and its share; None with too few readings."""
        if not self.decides:
            return None
        option = max(self.decides, key=lambda name: self.decides[name])
        return next(each.says for each in self.opens if each.option == option), self.decides[option]


def readings_of(claim: str) -> tuple[Open, ...]:
    """What this claim's paper leaves open.

    Raises:
        LabError: a file is not understood.

    """
    for path in (files("manyloss.lab.claims") / "readings").iterdir():
        if path.name.endswith(".toml"):
            of_claims, opens = read_opens(path.name, path.read_bytes())
            if any(fnmatchcase(claim, pattern) for pattern in of_claims):
                return opens
    return ()


def read_opens(file: str, content: bytes) -> tuple[tuple[str, ...], tuple[Open, ...]]:
    """What a file of ``readings/`` lists: patterns of claims, and what is open."""
    try:
        entries = tomllib.loads(content.decode())
        of_claims = tuple(entries.pop("claims"))
        opens = tuple(
            Open(name, each["open"], tuple(each["values"]), tuple(each.get("also", ())))
            for name, each in entries.items()
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"The readings {file} are not understood: {error}. See the files beside it."
        ) from error
    for each in opens:
        if not FEWEST_VALUES <= len(set(map(repr, each.values))) == len(each.values) <= MOST_VALUES:
            raise LabError(
                f"The readings {file} are not understood: {each.option!r} has the values "
                f"{list(each.values)}. Give {FEWEST_VALUES} to {MOST_VALUES} different ones."
            )
    return of_claims, opens


def options_of_reading(opens: Sequence[Open], settings: Settings) -> dict[str, Any]:
    """The options of the run that a reading stands for; ``epochs`` is none.

    An arm's that has the value in force is left out, so that its trials are those of the run in force.
    """
    return {
        option: settings[each.option]
        for each in opens
        if each.option != "epochs"
        for option in (each.option, *each.also)
        if not (is_of_an_arm(option) and settings[each.option] == each.values[0])
    }


def chosen(opens: Sequence[Open], count: int | None, seed: int = 0) -> list[dict[str, Any]]:
    """All readings, or ``count`` of them; more go on from fewer. The one in force is always the first.

    Few must tell apart what is open, so two values should not always come together. Each next reading is the
    one whose pairs of values were met least so far, every pair in units of how often it should be met. Among
    equals a draw with the seed decides.
    """
    grid = [
        dict(zip([each.option for each in opens], values, strict=True))
        for values in itertools.product(*(each.values for each in opens))
    ]
    if count is None or count >= len(grid):
        return grid
    shuffled = [grid[0], *random.Random(seed).sample(grid[1:], len(grid) - 1)]
    left = [(each, _pairs_of_values(opens, each)) for each in shuffled]
    drawn: list[dict[str, Any]] = []
    met: Counter[_Pair] = Counter()
    while len(drawn) < max(count, 1):
        each, pairs = min(left, key=lambda one: sum(met[pair] * pair.kinds for pair in one[1]))
        left.remove((each, pairs))
        drawn.append(each)
        met.update(pairs)
    return drawn


class _Pair(NamedTuple):
    """A value of one open thing with one of another; ``kinds`` is how many such pairs the two have."""

    values: tuple[tuple[str, str], tuple[str, str]]
    kinds: int


def _pairs_of_values(opens: Sequence[Open], settings: Settings) -> list[_Pair]:
    return [
        _Pair(
            ((one.option, repr(settings[one.option])), (other.option, repr(settings[other.option]))),
            len(one.values) * len(other.values),
        )
        for one, other in itertools.combinations(opens, 2)
    ]


def judged(settings: Settings, verdict: Verdict) -> Judged:
    """One reading's verdict in short."""
    checks = [
        JudgedCheck(finding.check.says, finding.outcome, *(_margin(finding) or (None, None)))
        for finding in verdict.findings
    ]
    return Judged(dict(settings), verdict.word, verdict.seeds, tuple(checks))


def summed_up(opens: Sequence[Open], found: Sequence[Judged]) -> Readings:
    """The readings with what decides: eta squared of each open thing, if they differ beyond noise."""
    known = [Interval(each.margin, each.half_width, each.seeds) for each in found if each.margin is not None]
    p = means_differ(known)
    alike = p is not None and p >= 1 - CONFIDENCE
    return Readings(tuple(opens), tuple(found), {} if alike else eta_squared(opens, found), alike)


def enough_to_decide(opens: Sequence[Open]) -> int:
    """How many readings with a result: more than the effects to be told apart and their mean."""
    return 2 + sum(len(each.values) - 1 for each in opens)


def eta_squared(opens: Sequence[Open], found: Sequence[Judged]) -> dict[str, float]:
    """Option -> sum over its values of n (mean - grand mean)^2, over the margins' total sum of squares.

    Empty where there are too few readings to tell the options apart.
    """
    known = [(each.settings, each.margin) for each in found if each.margin is not None]
    if len(known) < enough_to_decide(opens):
        return {}
    grand = fmean(margin for _, margin in known)
    total = sum((margin - grand) ** 2 for _, margin in known)
    if total <= 0:
        return {}
    shares = {}
    for each in opens:
        groups: dict[str, list[float]] = {}
        for settings, margin in known:
            groups.setdefault(repr(settings[each.option]), []).append(margin)
        between = sum(len(group) * (fmean(group) - grand) ** 2 for group in groups.values())
        shares[each.option] = between / total
    return shares


def record_of_readings(readings: Readings) -> dict[str, Any]:
    """What is kept: small, in the order in which they were judged."""
    return {
        "says": str(readings),
        "open": {
            each.option: {
                "open": each.says,
                "values": list(each.values),
                "share of the variance": readings.decides.get(each.option),
            }
            for each in readings.opens
        },
        "checks": [
            {
                "says": says,
                **{outcome: found.count(outcome) for outcome in OUTCOMES},
                "margins": [each.margin for each in found.judged],
                "alike": found.alike,
                "share of the variance": dict(found.decides),
            }
            for says, found in readings.by_check().items()
        ],
        "seeds": readings.seeds,
        "alike": readings.alike,
        "judged": [
            [*each.settings.values(), each.word, each.margin, each.half_width] for each in readings.judged
        ],
    }


def _margin(finding: Finding) -> tuple[float, float | None] | None:
    """How far a check holds by its means, relative to what it is compared with, and its half width."""
    difference, against = finding.difference, finding.against
    if difference is None or against is None:
        return None
    size = abs(against) or 1.0
    half = None if difference.half_width is None else difference.half_width / size
    if finding.check.relation == "near":
        return (finding.check.within - abs(difference.mean)) / size, half
    sign = -1.0 if finding.check.relation == "lower" else 1.0
    return (sign * difference.mean - finding.check.within) / size, half
