"""How the rows of a tuned comparison were found, and what that cost, read back from ``DIR/tuning``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from manyloss import catalog
from manyloss.lab import checks
from manyloss.lab.optimizer import LR_FACTOR, WEIGHT_DECAY
from manyloss.lab.printing import few, printable
from manyloss.lab.pruning import gain
from manyloss.lab.runs import storage
from manyloss.lab.tuning import finalists_of

#: Of a setting's options, where they are told in words; files and arms have all.
OPTIONS_SHOWN = 16
#: Learning rates less apart than by this factor are the same end.
SAME_END = 1.1


@dataclass(frozen=True)
class TriedSetting:
    """One setting that was tried: its gain over the baseline's default on validation, if it finished."""

    arm: str
    gain: float | None
    status: str
    seconds: float


@dataclass(frozen=True)
class TunedRow:
    """The settings of one row, in the order in which they were tried, and the chosen one.

    ``finalists`` are those that were trained with more seeds: their gain is the mean over all of theirs, None
    where a trial failed, and their seconds are those of the further trials. ``needed_seconds`` is what the
    trials took that its own cannot do without.
    """

    label: str
    chosen: str
    settings: tuple[TriedSetting, ...] = field(default=())
    needed_seconds: float = 0.0
    finalists: tuple[TriedSetting, ...] = ()
    #: With how many seeds more than the others each finalist was trained.
    more_seeds: int = 0

    @property
    def trials(self) -> int:
        """How many settings were tried."""
        return len(self.settings)

    @property
    def seconds(self) -> float:
        """What all of them took, in trials' own time, with what they need."""
        return sum(each.seconds for each in (*self.settings, *self.finalists)) + self.needed_seconds

    @property
    def ended(self) -> Mapping[str, int]:
        """How many finished, were pruned, diverged or crashed."""
        return Counter(setting.status for setting in self.settings)

    @property
    def best(self) -> float | None:
        """The gain of the chosen setting, the mean over its seeds; None if it has none."""
        gains = {each.arm: each.gain for each in (*self.settings, *self.finalists)}
        return gains.get(self.chosen)

    @property
    def at_the_end(self) -> bool:
        """Whether the chosen learning rate is the largest or the smallest that was tried."""
        tried = [rate_in(each.arm) for each in self.settings]
        return bool(tried) and end_of(rate_in(self.chosen), tried) != 0

    @property
    def options(self) -> list[str]:
        """The options of the chosen setting, in words."""
        return options_in_words(self.chosen)

    @property
    def words(self) -> str:
        """The chosen setting without the method's name: ``learning rate x 2.1, alpha=0.5``."""
        return words_of_setting(self.chosen)


def finalists_in(rows: Iterable[TunedRow]) -> tuple[int, int]:
    """How many finalists a row had, and with how many seeds more they were trained; 0 for none."""
    found = [(len(row.finalists), row.more_seeds) for row in rows]
    return max((count for count, _ in found), default=0), max((more for _, more in found), default=0)


def rate_in(arm: str) -> float:
    """An arm's factor of the learning rate; 1 where it has none."""
    _, _, found = arm.partition(f"{LR_FACTOR}=")
    return float(found.partition(":")[0]) if found else 1.0


def end_of(rate: float, tried: Sequence[float]) -> int:
    """1 where this is the largest learning rate of those tried, -1 where it is the smallest, otherwise 0."""
    low, high = min(tried), max(tried)
    if high < SAME_END * low:
        return 0
    return int(rate * SAME_END >= high) - int(rate <= low * SAME_END)


def options_in_words(arm: str) -> list[str]:
    """An arm's options as a person reads them, those of the optimizer first."""
    known = {LR_FACTOR: "learning rate × ", WEIGHT_DECAY: "weight decay "}
    of_the_optimizer, own = [], []
    for name, value in catalog.options_in(arm.partition(":")[2], known):
        if name in known:
            of_the_optimizer.append(f"{known[name]}{value}")
        else:
            own.append(name if value is None else f"{name}={value}")
    return of_the_optimizer + own


def words_of_setting(arm: str) -> str:
    """The same in one line, of many options the first: a static sum may have a hundred weights."""
    return few(options_in_words(arm), ", ", OPTIONS_SHOWN) or "as it is"


def read_tuning(folder: Path) -> dict[str, TunedRow]:
    """Row -> how it was tuned. Nothing where there was no tuning.

    Raises:
        StorageError: a file cannot be read, or does not hold what it should.

    """
    path = folder / "tuning.json"
    known = storage.read_json(path)
    try:
        return {} if known is None else _rows(folder, known)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise checks.damaged(path, error) from error


def _rows(folder: Path, known: Mapping[str, Any]) -> dict[str, TunedRow]:
    seed = int(known["seed"])
    more_seeds = [int(each) for each in known.get("more_seeds", ())]
    directions = {str(name): bool(higher) for name, higher in known["higher_is_better"].items()}

    def result_of(arm: str, seed: int = seed) -> dict[str, Any]:
        root = finalists_of(folder) if seed in more_seeds else folder
        return storage.read_result(storage.trial_folder(root, arm, seed)) or {"status": "missing"}

    def seconds_of(arm: str, seed: int = seed) -> float:
        return float(result_of(arm, seed).get("seconds") or 0.0)

    def needed(settings: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> float:
        own = {str(each["arm"]) for each in settings}
        others = {str(name) for each in settings for name in each.get("needs") or ()} - own
        return sum(seconds_of(name, each) for name in sorted(others) for each in seeds)

    def gain_in(result: Mapping[str, Any]) -> float | None:
        if result["status"] != "finished":
            return None
        found = gain(storage.numbers(result["validation"]), reference, directions)
        return found if math.isfinite(found) else None

    def tried(arm: str) -> TriedSetting:
        result = result_of(arm)
        return TriedSetting(printable(arm), gain_in(result), str(result["status"]), seconds_of(arm))

    def finalist(arm: str) -> TriedSetting:
        results = [result_of(arm, each) for each in (seed, *more_seeds)]
        gains = [gained for result in results if (gained := gain_in(result)) is not None]
        statuses = [str(result["status"]) for result in results]
        return TriedSetting(
            printable(arm),
            fmean(gains) if len(gains) == len(results) else None,
            next((status for status in statuses if status != "finished"), "finished"),
            sum(seconds_of(arm, each) for each in more_seeds),
        )

    def row_of(row: Mapping[str, Any]) -> TunedRow:
        asked = row.get("finalists") or ()
        finalists = [str(arm) for arm in asked] if len(asked) > 1 else []
        again = [each for each in row["settings"] if each["arm"] in finalists]
        return TunedRow(
            printable(row["label"]),
            printable(row["chosen"]),
            tuple(tried(str(each["arm"])) for each in row["settings"]),
            needed(row["settings"], [seed]) + needed(again, more_seeds),
            tuple(map(finalist, finalists)),
            len(more_seeds) if finalists else 0,
        )

    reference = storage.numbers(result_of(str(known["baseline"])).get("validation") or {})
    return {printable(row["label"]): row_of(row) for row in known["rows"] if row["chosen"] is not None}
