"""How the rows of a tuned comparison were found, and what that cost, read back from ``DIR/tuning``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyloss.lab.printing import printable
from manyloss.lab.pruning import gain
from manyloss.lab.runs import storage


@dataclass(frozen=True)
class TriedSetting:
    """One setting that was tried: its gain over the baseline's default on validation, if it finished."""

    arm: str
    gain: float | None
    status: str
    seconds: float


@dataclass(frozen=True)
class TunedRow:
    """The settings of one row, in the order in which they were tried, and the chosen one."""

    label: str
    chosen: str
    settings: tuple[TriedSetting, ...] = field(default=())

    @property
    def trials(self) -> int:
        """How many settings were tried."""
        return len(self.settings)

    @property
    def seconds(self) -> float:
        """What all of them took, in trials' own time."""
        return sum(setting.seconds for setting in self.settings)

    @property
    def ended(self) -> Mapping[str, int]:
        """How many finished, were pruned, diverged or crashed."""
        return Counter(setting.status for setting in self.settings)

    @property
    def words(self) -> str:
        """The chosen setting without the method's name: ``alpha=0.5, learning rate x 2.1``."""
        return words_of_setting(self.chosen)


def words_of_setting(arm: str) -> str:
    """An arm's options as a person reads them."""
    _, _, options = arm.partition(":")
    text = options.replace("optimizer.lr_factor=", "learning rate × ").replace(
        "optimizer.weight_decay=", "weight decay "
    )
    return text.replace(":", ", ") or "as it is"


def read_tuning(folder: Path) -> dict[str, TunedRow]:
    """Row -> how it was tuned. Nothing where there was no tuning.

    Raises:
        ValueError, KeyError, TypeError: a file does not hold what it should.
        LabError: a file cannot be read.

    """
    known = storage.read_json(folder / "tuning.json")
    if known is None:
        return {}
    seed = int(known["seed"])
    directions = {str(name): bool(higher) for name, higher in known["higher_is_better"].items()}

    def result_of(arm: str) -> dict[str, Any]:
        return storage.read_result(storage.trial_folder(folder, arm, seed)) or {"status": "missing"}

    reference = storage.numbers(result_of(str(known["baseline"])).get("validation") or {})
    rows = {}
    for row in known["rows"]:
        settings = []
        for each in row["settings"]:
            result = result_of(str(each["arm"]))
            found = math.nan
            if result["status"] == "finished":
                found = gain(storage.numbers(result["validation"]), reference, directions)
            settings.append(
                TriedSetting(
                    printable(each["arm"]),
                    found if math.isfinite(found) else None,
                    str(result["status"]),
                    float(result.get("seconds") or 0.0),
                )
            )
        if row["chosen"] is not None:
            label = printable(row["label"])
            rows[label] = TunedRow(label, printable(row["chosen"]), tuple(settings))
    return rows
