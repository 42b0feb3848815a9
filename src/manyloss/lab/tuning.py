"""Tuning: the same number of tried settings for every method, chosen on validation.

A tried setting is an ordinary arm, such as ``gradnorm:alpha=0.5:optimizer.lr_factor=2.1``, and its trial an
ordinary trial of a study in ``DIR/tuning``, with a seed that no trial of the table has. Settings are asked
for in rounds; ``tuning.json`` keeps what was asked. Optuna's study is built anew from the finished trials in
each round, so that nothing else has to be kept, and what is asked depends on the seeds only.

The best of many settings with one seed is a lucky one. So the best `FINALISTS` of each row are trained with
`MORE_SEEDS`, too, in ``DIR/tuning/finalists``, and the mean over all three seeds chooses between them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from manyloss.lab import checks
from manyloss.lab.arms import ChosenArm, average_weights_of, choose_arm, choose_arms
from manyloss.lab.optimizer import LR_FACTOR, WEIGHT_DECAY
from manyloss.lab.problem import Problem
from manyloss.lab.pruning import Pruning, gain
from manyloss.lab.runs import storage
from manyloss.lab.runs.source import MAIN, Source
from manyloss.lab.scripts import asks_for, choosing_metrics
from manyloss.lab.spaces import DECAY_RANGE, LR_RANGE, OWN_SCALE, Space, SumSpace, ask, weighted_sum
from manyloss.lab.training import seed_for

#: Of the tried settings' trials, and of the finalists' further ones; trials of the table may not have them.
TUNING_SEED = 1_000_000
MORE_SEEDS = (1_000_001, 1_000_002)
#: So many settings of every row are trained with `MORE_SEEDS`.
FINALISTS = 2
#: Settings of one method that are asked for together: a number of its own, not of the machine.
ROUND = 4
#: Learning rates of the first round, the same for every row: else luck would give one row the better ones.
FIRST_FACTORS = (3.0, 0.3, 8.0, 0.12)
#: How the sum of losses with searched weights is called.
TUNED_SUM = "tuned sum"
FORMAT = 1


@dataclass
class Setting:
    """One that was asked for.

    ``drawn`` is None for a default that is not among what is searched; ``needs`` are the arms whose trials
    its own cannot do without.
    """

    arm: str
    drawn: dict[str, Any] | None = None
    pruning: dict[str, Any] | None = None
    needs: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, chosen: ChosenArm, problem: Problem, drawn: dict[str, Any] | None = None) -> Setting:
        """Of an arm with its options."""
        needs = [choose_arm(needed, problem).name for needed in chosen.requires]
        return cls(chosen.name, drawn, needs=needs)


@dataclass
class Searched:
    """A row with its settings, and the one that was chosen when all have ended."""

    label: str
    arm: str
    settings: list[Setting] = field(default_factory=list)
    #: Arms of the best settings when all have ended; fewer than two where there is nothing to choose.
    finalists: list[str] = field(default_factory=list)
    chosen: str | None = None
    #: Nothing new is left to try.
    exhausted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "settings": [vars(setting) for setting in self.settings]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Searched:
        """What `to_dict` gave."""
        return cls(**{**values, "settings": [Setting(**each) for each in values["settings"]]})


class Tuning:
    """The search for all rows, kept in ``root``.

    Call `next_round` and run what it asks, until it is done; then run the `finalists`, and `choose`.

    Args:
        source: of the problem, with its texts held.
        methods: as on the command line.
        root: the folder of the tried settings.
        settings: how many per row.
        prune: whether settings that are behind stop early.
        retune: rows that are searched anew. What they are asked for is a function of the seeds and of the
            results, so that to call it again goes on, and trials that are there are not trained again.

    Raises:
        LabError: a method that cannot be tuned, a script that does not ask for its learning rate, a folder
            that was tuned otherwise, or no row to be searched anew of that name.

    """

    def __init__(
        self,
        source: Source,
        methods: Sequence[str],
        root: Path,
        *,
        settings: int,
        prune: bool,
        retune: Sequence[str] = (),
    ) -> None:
        self.root, self.settings, self.prune = root, settings, prune
        self.problem = problem = source.load()
        self.path = root / "tuning.json"
        self.decays = True
        if source.script is not None:
            text = source.texts()[MAIN].text
            if not asks_for(text, "learning_rate"):
                raise checks.LabError(
                    f"{source.where} cannot be tuned: it never asks for lab.learning_rate. Write "
                    "lr = lab.learning_rate(1e-3) in place of lr = 1e-3; by itself the script runs as "
                    "before. lab.weight_decay(0.0) does the same for the weight decay."
                )
            self.decays = asks_for(text, "weight_decay")
        baseline = choose_arm(problem.baseline, problem)
        chosen = [baseline, *(arm for arm in choose_arms(methods, problem) if arm.name != baseline.name)]
        self.arms = {arm.name: arm for arm in chosen if arm.name != "static"}
        self.baseline = baseline.name
        self.directions = _directions(source, problem)
        self.searched: dict[str, Searched] = {}
        self._read()
        for label in [*self.arms, TUNED_SUM]:
            arm = self.arms[label].name if label in self.arms else "static"
            self.searched.setdefault(label, Searched(label, arm))
        for label in retune:
            if label not in self.searched:
                raise checks.LabError(
                    f"--retune: there is no row {label!r}. {checks.closest(label, self.searched)}"
                )
            self.searched[label] = Searched(label, self.searched[label].arm)

    # -- the folder ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        known = storage.read_json(self.path)
        if known is None:
            return
        try:
            then = {name: known[name] for name in ("settings", "prune", "format")}
            rows = [Searched.from_dict(row) for row in known["rows"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise checks.damaged(self.path, error) from error
        now = {"settings": self.settings, "prune": self.prune, "format": FORMAT}
        differences = [
            f"{name} was {then[name]!r}, now {now[name]!r}" for name in now if then[name] != now[name]
        ]
        if differences:
            raise checks.other_settings(self.root, differences)
        self.searched = {row.label: row for row in rows}

    def write(self) -> None:
        """Write tuning.json."""
        storage.make_folder(self.root)
        storage.write_json(
            self.path,
            {
                "format": FORMAT,
                "settings": self.settings,
                "prune": self.prune,
                "seed": TUNING_SEED,
                "more_seeds": list(MORE_SEEDS),
                "baseline": self.baseline,
                "higher_is_better": dict(self.directions),
                "rows": [row.to_dict() for row in self.searched.values()],
            },
        )

    def outdated(self) -> list[str]:
        """What was searched for a row where it would be something else now, in words."""
        said = []
        for row in self.searches():
            label = row.label
            drawn = [set(setting.drawn) for setting in row.settings if setting.drawn is not None]
            if label == TUNED_SUM or not drawn:
                continue
            space = Space.of(choose_arm(row.arm, self.problem))
            then, now = drawn[-1], {*space.values, *space.ranges}
            if then != now:
                said.append(
                    f"{label} was tuned over {_listed(then)}, and would be over {_listed(now)} now: "
                    f"--retune {shlex.quote(label)} searches it anew."
                )
        return said

    # -- rounds --------------------------------------------------------------------------------------------

    def searches(self) -> list[Searched]:
        """The rows with a search of their own."""
        return [row for row in self.searched.values() if self._followed_by(row) is None]

    def _followed_by(self, row: Searched) -> Searched | None:
        """The row whose setting this one takes: average weights are those of the method's chosen setting."""
        if row.settings or row.label == TUNED_SUM:
            return None
        arm = choose_arm(row.arm, self.problem)
        return self.searched.get(arm.requires[0]) if arm.arm.averages else None

    def asked(self) -> list[Setting]:
        """All settings that were asked for, by row."""
        return [setting for row in self.searched.values() for setting in row.settings]

    def next_round(self) -> bool:
        """Ask for more settings of every row that has fewer than it may; False when there are none.

        The sum gets more where equal weights ended better, so that it is never behind for want of a rate.

        To be called when all that was asked before has ended.
        """
        before = len(self.asked())
        for row in self.searches():
            self._ask_for(row)
        if len(self.asked()) == before:
            self._ask_for_equal_weights()
        if len(self.asked()) == before:
            self._name_finalists()
            return False
        self.write()
        return True

    def _ask_for(self, row: Searched) -> None:
        left = self.settings - len(row.settings)
        if left <= 0 or row.exhausted or row.chosen is not None:
            return
        if row.label != TUNED_SUM and not row.settings:
            default = choose_arm(row.arm, self.problem)
            row.settings.append(Setting.of(default, self.problem, Space.of(default).default(default)))
            return
        space = self._space(row)
        if space is None:
            return
        if not row.settings:
            equal = weighted_sum(dict.fromkeys(space.sizes, 1.0)) if isinstance(space, SumSpace) else row.arm
            row.settings.append(Setting.of(choose_arm(equal, self.problem), self.problem))
            return
        known = {setting.arm for setting in row.settings}
        pruning = self._pruning(row) if self.prune else None
        count = min(ROUND, left)
        found: list[Setting] = []
        for again in range(5):  # few values may leave few combinations
            seed = seed_for(row.label, len(row.settings) + 1000 * again, "tuning")
            for drawn in ask(space, self._tried(row), count - len(found), seed % 2**32):
                place = len(row.settings) + len(found)
                if place <= len(FIRST_FACTORS):
                    drawn = space.at_first_rate(drawn, FIRST_FACTORS[place - 1])
                elif place == len(FIRST_FACTORS) + 1 and not again:
                    drawn = space.after_first_rates(drawn, self._best_rate(row))
                setting = Setting.of(choose_arm(space.text(drawn), self.problem), self.problem, drawn)
                if setting.arm not in known:
                    known.add(setting.arm)
                    found.append(replace(setting, pruning=None if pruning is None else pruning.to_dict()))
            if len(found) == count:
                break
        row.settings += found
        row.exhausted = not found

    def _ask_for_equal_weights(self) -> None:
        """The sum gets rates of equal weights that would be finalists of its own: they are a sum, too."""
        row, equal = self.searched[TUNED_SUM], self.searched.get("equal")
        space = self._space(row)
        if equal is None or space is None or row.chosen is not None:
            return
        own = [gained for _, gained in self._ranked(row)]
        for setting, gained in self._ranked(equal)[:FINALISTS]:
            is_better = len(own) < FINALISTS or gained > own[FINALISTS - 1]
            if setting.drawn is None or not is_better:
                continue
            drawn = dict(setting.drawn)
            more = Setting.of(choose_arm(space.text(drawn), self.problem), self.problem, drawn)
            if more.arm not in {each.arm for each in row.settings}:
                row.settings.append(more)

    def _best_rate(self, row: Searched) -> float:
        """Of the settings that finished; the user's own where none has."""
        best = next((setting.drawn for setting, _ in self._ranked(row)), None) or {}
        return float(best.get(LR_FACTOR, 1.0))

    def _space(self, row: Searched) -> Space | None:
        """What is searched; None while the losses of a script are not known."""
        if row.label != TUNED_SUM:
            return Space.of(choose_arm(row.arm, self.problem))
        sizes = self._sizes()
        if sizes is None:
            return None
        ranges = {LR_FACTOR: LR_RANGE, **({WEIGHT_DECAY: DECAY_RANGE} if self.decays else {})}
        return SumSpace("static", {}, ranges, sizes)

    def _sizes(self) -> dict[str, float] | None:
        """Loss -> its size in the first epoch of the baseline's default; 1 where that is not known."""
        first = next(iter(self._epochs(self.baseline)), {})
        sizes = storage.numbers(first.get("train") or {})
        if self.problem.loss_names:
            return {name: sizes.get(name, math.nan) for name in self.problem.loss_names}
        return sizes or None

    def _ranked(self, row: Searched) -> list[tuple[Setting, float]]:
        """The settings that finished and their gains, the best first, of equal ones the earlier."""
        gains = [(setting, self.gain_of(setting)) for setting in row.settings]
        known = [(setting, value) for setting, value in gains if value is not None]
        return sorted(known, key=itemgetter(1), reverse=True)

    def _tried(self, row: Searched) -> list[tuple[Mapping[str, Any], float | None]]:
        return [
            (setting.drawn, self.gain_of(setting)) for setting in row.settings if setting.drawn is not None
        ]

    def _pruning(self, row: Searched) -> Pruning | None:
        finished = [setting for setting in row.settings if self.gain_of(setting) is not None]
        curves = [
            [storage.numbers(epoch["validation"]["metrics"]) for epoch in self._epochs(setting.arm)]
            for setting in finished
        ]
        return Pruning.against(curves, self.reference(), self.directions, self.problem.keep_last)

    # -- results -------------------------------------------------------------------------------------------

    def gain_of(self, setting: Setting, seed: int = TUNING_SEED) -> float | None:
        """Its gain over the baseline's default on validation; None if it has no finished trial.

        The baseline's is always of `TUNING_SEED`: within a row only the difference counts.
        """
        result = self._result(setting.arm, seed)
        if result is None or result["status"] != "finished":
            return None
        value = gain(storage.numbers(result["validation"]), self.reference(), self.directions)
        return value if math.isfinite(value) else None

    def scale_of_the_sum(self) -> dict[str, float] | None:
        """The sizes that the chosen weights of the sum are divided by, if they are."""
        row = self.searched[TUNED_SUM]
        drawn = next((each.drawn for each in row.settings if each.arm == row.chosen), None)
        return self._sizes() if drawn and drawn.get("scale") == OWN_SCALE else None

    def reference(self) -> dict[str, float]:
        """Validation metrics of the baseline's default, or of the first setting that finished."""
        for arm in (self.baseline, *(setting.arm for setting in self.asked())):
            result = self._result(arm)
            if result is not None and result["status"] == "finished":
                return storage.numbers(result["validation"])
        return {}

    def _result(self, arm: str, seed: int = TUNING_SEED) -> dict[str, Any] | None:
        root = self.root if seed == TUNING_SEED else finalists_of(self.root)
        return storage.read_result(storage.trial_folder(root, arm, seed))

    def _epochs(self, arm: str) -> list[dict[str, Any]]:
        folder = storage.trial_folder(self.root, arm, TUNING_SEED)
        return list(storage.read_lines(folder / "epochs.jsonl"))

    # -- the choice ----------------------------------------------------------------------------------------

    def _name_finalists(self) -> None:
        for row in self.searched.values():
            if row.chosen is None:
                row.finalists = [setting.arm for setting, _ in self._ranked(row)[:FINALISTS]]
        self.write()

    def finalists(self) -> list[str]:
        """The arms that are to be trained with `MORE_SEEDS`, in `finalists_of` the folder."""
        rows = [row for row in self.searched.values() if row.chosen is None and len(row.finalists) > 1]
        return list(dict.fromkeys(arm for row in rows for arm in row.finalists))

    def choose(self) -> None:
        """Choose the finalist of every row that is best on average over the seeds, when these have ended.

        One that fails with a further seed is behind those that do not; the default is chosen where nothing
        finished.
        """
        for row in self.searched.values():
            if row.chosen is None and row.settings:
                known = {setting.arm: setting for setting in row.settings}
                means = {arm: self._mean_gain(known[arm]) for arm in row.finalists}
                finished = {arm: mean for arm, mean in means.items() if mean is not None}
                first = next(iter(row.finalists), row.settings[0].arm)
                row.chosen = max(finished, key=lambda arm: finished[arm], default=first)
        for row in self.searched.values():
            followed = self._followed_by(row)
            if followed is not None and followed.chosen is not None:
                row.chosen = average_weights_of(followed.chosen, self.problem)
        self.write()

    def _mean_gain(self, setting: Setting) -> float | None:
        gains = [self.gain_of(setting, seed) for seed in (TUNING_SEED, *MORE_SEEDS)]
        known = [value for value in gains if value is not None]
        return fmean(known) if len(known) == len(gains) else None


def _listed(options: set[str]) -> str:
    return ", ".join(sorted(options)) or "nothing"


def finalists_of(root: Path) -> Path:
    """Where the finalists' trials with `MORE_SEEDS` lie, of a folder of tried settings."""
    return root / "finalists"


def _directions(source: Source, problem: Problem) -> dict[str, bool]:
    """The metrics of validation that count."""
    if source.script is not None:
        return choosing_metrics(source.script.metrics)
    return {
        name: about["higher_is_better"]
        for name, about in problem.metric_directions().items()
        if not about["derived"]
    }
