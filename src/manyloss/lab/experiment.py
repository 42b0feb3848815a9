"""Experiment: a comparison with the studies that belong to it, in the order in which they can run.

    DIR/tuning/   tried settings of every row            --tune
    DIR/tuning/finalists/   the best of them, with more seeds
    DIR/          the rows of the table, with seeds of their own
    DIR/sweep/    static weights, for the front of the sum    --pareto
    DIR/single/   each loss alone                        --single-task

Each part is a study of its own, with its own folder that can be killed, resumed and reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from manyloss.lab import checks
from manyloss.lab.arms import ChosenArm, choose_arm, choose_arms
from manyloss.lab.problem import Problem
from manyloss.lab.runs import storage
from manyloss.lab.runs.execution import FruitlessError
from manyloss.lab.runs.source import Source, as_kept
from manyloss.lab.runs.study import PARTS, Study, known_in
from manyloss.lab.spaces import weighted_sum
from manyloss.lab.sweep import simplex
from manyloss.lab.tuning import FINALISTS, MORE_SEEDS, TUNED_SUM, TUNING_SEED, Tuning, finalists_of


def trained_alone(problem: Problem) -> tuple[str, ...]:
    """The losses that are compared with a training of their own: those that have a metric.

    Raises:
        NothingAloneError: a metric belongs to no loss.

    """
    tasks = {about["task"] for about in problem.metric_directions().values() if not about["derived"]}
    unknown = sorted(tasks - set(problem.loss_names))
    if unknown:
        raise checks.nothing_alone(problem.name, unknown, problem.loss_names)
    return tuple(name for name in problem.loss_names if name in tasks)


@dataclass
class Experiment:
    """What was asked for. `studies` yields what is to be run; a tuned part is planned from the ones before.

    Attributes:
        source: of the problem.
        methods: as on the command line.
        seeds: of the rows.
        root: the run folder.
        tune: settings per row; 0 compares the methods as they are.
        prune: stop settings early that are behind.
        retune: rows whose settings are searched anew.
        pareto: metrics whose trade-off is looked at.
        single_task: train each loss alone, too.
        common: what all studies share: epochs, jobs, device, command, notes.

    """

    source: Source
    methods: Sequence[str]
    seeds: Sequence[int]
    root: Path
    tune: int = 0
    prune: bool = False
    retune: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()
    single_task: bool = False
    common: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None
    #: The table's own study; None until the rows are tuned.
    table: Study | None = None
    #: What was asked for and cannot be had, found when all else was run.
    unmet: checks.LabError | None = None
    _untuned: Study | None = None

    def __post_init__(self) -> None:
        self.source = as_kept(self.source.hold(), self.root)
        problem = self.source.load()
        losses = problem.loss_names
        if self.prune and not self.tune:
            raise checks.LabError(
                "--prune stops settings that are tried by --tune: give --tune 20, or leave --prune out."
            )
        if self.retune and not self.tune:
            raise checks.LabError(
                "--retune searches rows anew that --tune has searched: give --tune and its number, or leave "
                "--retune out."
            )
        if self.pareto:
            _check_metrics(self.pareto, list(problem.metric_directions()))
        if self.source.script is not None and self.single_task:
            raise checks.not_for_scripts("single")
        for word, asked in (("pareto", bool(self.pareto)), ("single-task", self.single_task)):
            if asked and len(losses) == 1:
                raise checks.LabError(
                    f"--{word} compares what several losses make of each other, and {losses[0]!r} is the "
                    "only one."
                )
        if self.single_task:
            trained_alone(problem)
        if not self.tune:
            self.table = Study.plan(self.source, self.methods, self.seeds, self.root, **self.common)
            return
        for seed in (TUNING_SEED, *MORE_SEEDS):
            if seed in self.seeds:
                raise checks.LabError(
                    f"The seed {seed} is that of the settings that are tried. Choose other --seeds: 5."
                )
        self.tuning = Tuning(
            self.source,
            self.methods,
            self.root / "tuning",
            settings=self.tune,
            prune=self.prune,
            retune=self.retune,
        )
        # A method that cannot be compared is said now.
        self._untuned = self._tuning_study([arm.name for arm in self.tuning.arms.values()])
        if known_in(self.root) is not None:
            self._table()  # and so is a folder of something else

    @property
    def first(self) -> Study:
        """A study of the problem as it is planned before anything has run."""
        planned = self.table or self._untuned
        assert planned is not None
        return planned

    @property
    def remarks(self) -> list[str]:
        """What the plan does beyond what was asked for."""
        if self.tuning is None:
            return self.first.remarks
        planned = [remark for remark in self.first.remarks if "also holds" not in remark]
        return [*planned, *self.tuning.outdated()]

    def studies(self) -> Iterator[tuple[str, Study]]:
        """What is to be run, with what it is for; each one when the ones before have ended."""
        if self.tuning is not None:
            self.source = self.source.keep(self.root / "source")
            if self.tuning.asked():
                yield "tuning", self._tuning_study()
            while self.tuning.next_round():
                yield "tuning", self._tuning_study()
            if finalists := self.tuning.finalists():
                yield "finalists", self._finalists_study(finalists)
            self.tuning.choose()
            self.table = self._table()
        assert self.table is not None
        yield "", self.table
        if self.pareto and (sweep := self._sweep(self.table)) is not None:
            yield "static weights", sweep
            storage.write_json(self.root / "pareto.json", {"metrics": list(self.pareto)})
        if self.single_task:
            yield "single losses", self._single(self.table)

    def left(self) -> int:
        """About how many trials are still to be run, over all parts."""
        seeds = len(self.seeds if self.table is None else self.table.seeds)
        losses = max(len(self.first.problem.loss_names), 2)  # a script's are not known yet
        parts = {
            "sweep": len(simplex(losses)) * seeds if self.pareto else 0,
            "single": len(trained_alone(self.first.problem)) * seeds if self.single_task else 0,
        }
        left = 0
        if self.tuning is None:
            left = len(self.first.missing())
        else:
            rows, searches = len(self.tuning.searched), len(self.tuning.searches())
            finalists = searches * min(FINALISTS, self.tune) * len(MORE_SEEDS) if self.tune > 1 else 0
            parts |= {"tuning": searches * self.tune, "tuning/finalists": finalists, ".": rows * seeds}
        return left + sum(max(0, all_ - _results(self.root / part)) for part, all_ in parts.items())

    def untried(self) -> bool:
        """Whether nobody knows yet if the trials can run at all: a script without any result."""
        return self.source.script is not None and not any(
            _results(self.root / part) for part in (".", *PARTS)
        )

    def broken(self, error: FruitlessError) -> checks.LabError:
        """A script's own words; the folder is left as if it had never been tried."""
        said = storage.last_words(error.specs[0].folder / "log.txt") or error.reason
        for name in ("trials", "source", "study.json", "tuning.json", *PARTS):
            storage.remove(self.root / name)
        return checks.broken_script(self.first.problem.name, [spec.arm for spec in error.specs], said)

    # -- the studies ---------------------------------------------------------------------------------------

    def _tuning_study(self, arms: Sequence[str] | None = None) -> Study:
        tuning = self.tuning
        assert tuning is not None
        asked = tuning.asked()
        return Study.plan(
            self.source,
            [setting.arm for setting in asked] if arms is None else arms,
            [TUNING_SEED],
            tuning.root,
            pruning={setting.arm: setting.pruning for setting in asked if setting.pruning is not None},
            trials=len(tuning.searches()) * self.tune,
            measured=False,
            **self.common,
        )

    def _finalists_study(self, arms: Sequence[str]) -> Study:
        assert self.tuning is not None
        root = finalists_of(self.tuning.root)
        return Study.plan(
            self.source, arms, MORE_SEEDS, root, baseline=arms[0], measured=False, **self.common
        )

    def _table(self) -> Study:
        """The chosen settings, with fresh seeds."""
        tuning = self.tuning
        assert tuning is not None
        rows = [row for row in tuning.searched.values() if row.chosen is not None]
        labels = {row.label: str(row.chosen) for row in rows}
        return Study.plan(
            self.source,
            list(labels.values()),
            self.seeds,
            self.root,
            baseline=labels.get(tuning.baseline),
            labels=labels,
            tuned={
                "settings": self.tune,
                "prune": self.prune,
                "seed": TUNING_SEED,
                "finalists": FINALISTS,
                "more_seeds": list(MORE_SEEDS),
            },
            **self.common,
        )

    def _sweep(self, table: Study) -> Study | None:
        """Static weights over the simplex, with the optimiser (and the scale) of the tuned sum.

        None where a script's losses are not known.
        """
        losses = table.problem.loss_names or _losses_logged(table)
        if len(losses) < 2:
            self.unmet = checks.LabError(
                f"{table.problem.name}: there is no --pareto, for no trial logged its losses, or there is "
                "one only. Call lab.log after a step of what lab.method() gave, or leave --pareto out. All "
                "trials are kept."
            )
            return None
        sizes: Mapping[str, float] = dict.fromkeys(losses, 1.0)
        optimizer = ""
        if self.tuning is not None and TUNED_SUM in table.labels:
            optimizer = choose_arm(table.labels[TUNED_SUM], table.problem).optimizer.text
            sizes = self.tuning.scale_of_the_sum() or sizes
        arms = [
            weighted_sum({name: share / sizes[name] for name, share in zip(losses, shares, strict=True)})
            + optimizer
            for shares in simplex(len(losses))
        ]
        return self._beside(table, "sweep", arms)

    def _single(self, table: Study) -> Study:
        """Each loss alone, with the optimiser of the baseline."""
        baseline = choose_arm(table.baseline, table.problem)
        arms = [f"single:{name}{baseline.optimizer.text}" for name in trained_alone(table.problem)]
        return self._beside(table, "single", arms)

    def _beside(self, table: Study, folder: str, arms: Sequence[str]) -> Study:
        chosen: list[ChosenArm] = choose_arms(arms, table.problem)
        study = Study.plan(
            self.source,
            [arm.name for arm in chosen],
            table.seeds,
            self.root / folder,
            baseline=chosen[0].name,
            measured=False,
            **self.common,
        )
        return replace(study, threads=table.threads)


def _check_metrics(chosen: Sequence[str], known: Sequence[str]) -> None:
    """The metrics of ``--pareto`` are there, and two or more."""
    for name in chosen:
        if name not in known:
            raise checks.LabError(f"--pareto: there is no metric {name!r}. {checks.closest(name, known)}")
    if len(chosen) < 2:
        raise checks.LabError(
            f"--pareto {','.join(chosen)!r} is one metric, and a trade-off is between two or more. "
            f"There are: {', '.join(known)}."
        )


def _results(folder: Path) -> int:
    return len(list(folder.glob("trials/*/*/result.json")))


def _losses_logged(table: Study) -> tuple[str, ...]:
    """The losses of a script, as its finished trials met them."""
    for spec in table.trials():
        for epoch in storage.read_lines(spec.folder / "epochs.jsonl"):
            if epoch.get("train"):
                return tuple(storage.numbers(epoch["train"]))
    return ()
