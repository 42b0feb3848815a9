"""Study: trials that differ only in what is compared. Its folder is the database.

Running a study again into its folder finishes what is missing and repeats nothing. Running it with more
methods or seeds adds them. Running it with other settings is an error.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from manyloss import __version__
from manyloss.lab import checks
from manyloss.lab.arms import ChosenArm, choose_arm, choose_arms
from manyloss.lab.problem import BatchedSplit, Problem, Splits
from manyloss.lab.runs import storage
from manyloss.lab.runs.execution import Execution, cores, share_cores
from manyloss.lab.runs.executors import Executor
from manyloss.lab.runs.executors.processes import Processes
from manyloss.lab.runs.machines import environment, machines_in, without_repeats, words_of_machine
from manyloss.lab.runs.progress import Display
from manyloss.lab.runs.script_trial import trial_of
from manyloss.lab.runs.source import Source, as_kept
from manyloss.lab.runs.trial import TrialSpec, shared_root, spec_of
from manyloss.lab.scripts import chosen_on_what_is_shown

FORMAT = 1
#: Folders of studies that belong to one: tried settings, static weights, single losses.
PARTS = ("tuning", "sweep", "single")
#: The note of how many trials were copied from which run folders.
TAKEN_OVER = "taken over"
#: Notes that say how a folder was begun: a later call does not change them.
OF_THE_BEGINNING = ("rules", TAKEN_OVER)


@dataclass
class Study:
    """One problem, several arms, several seeds, one folder. Make it with `plan`, then `run` it."""

    source: Source
    problem: Problem
    arms: list[ChosenArm]
    seeds: list[int]
    epochs: int
    root: Path
    jobs: int
    threads: int
    device: str = "cpu"
    fast: bool = False
    command: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    #: Of the source checkouts that trained a part of it.
    commits: list[str] = field(default_factory=list)
    #: That trained a part of it, see `machines_in`.
    machines: list[dict[str, str]] = field(default_factory=list)
    #: Seed -> what its data looked like when they were first used.
    data: dict[str, str] = field(default_factory=dict)
    #: What the plan does beyond what was asked for, in words.
    remarks: list[str] = field(default_factory=list)
    #: The arm that the others are compared with; the problem's own where none is given.
    baseline: str = ""
    #: Short names of tuned arms -> the arms with their settings.
    labels: dict[str, str] = field(default_factory=dict)
    #: How the arms were tuned: a folder is of one tuning.
    tuned: dict[str, Any] | None = None
    #: Arm -> when its trial stops early.
    pruning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Whether the trials measure their losses' gradients.
    measured: bool = True

    @classmethod
    def plan(
        cls,
        source: Source,
        methods: Sequence[str],
        seeds: Sequence[int],
        root: Path,
        *,
        epochs: int | None = None,
        jobs: int | None = None,
        device: str = "cpu",
        fast: bool = False,
        command: Sequence[str] = (),
        notes: dict[str, Any] | None = None,
        baseline: str | None = None,
        labels: Mapping[str, str] | None = None,
        tuned: dict[str, Any] | None = None,
        pruning: Mapping[str, Mapping[str, Any]] | None = None,
        trials: int = 0,
        measured: bool = True,
    ) -> Study:
        """Decide what is compared, together with what the folder already holds.

        The baseline is added if it is not among the methods. ``trials`` is how many there will be, where more
        are planned later: cores are shared among so many.

        Raises:
            BrokenProblemError: the user's file fails.
            LabError: an unknown recipe, method or option; a folder of another study.

        """
        remarks: list[str] = []
        source = as_kept(source.hold(), root)
        problem = source.load()
        chosen = choose_arms(methods, problem)
        for arm in chosen:
            if arm.arm.shared:
                raise checks.only_a_prerequisite(arm.name)
            if source.script is not None and not arm.is_a_method_alone:
                raise checks.not_for_scripts(arm.name)
        against = choose_arm(baseline or problem.baseline, problem)
        if against.name not in [arm.name for arm in chosen]:
            chosen.insert(0, against)
            remarks.append(f"{against.name} is added: it is what the others are compared with.")
        study = cls(
            source=source,
            problem=problem,
            arms=chosen,
            seeds=list(dict.fromkeys(seeds)),
            epochs=problem.epochs if epochs is None else epochs,
            root=root,
            jobs=1,
            threads=1,
            device=device,
            fast=fast,
            command=list(command) or sys.argv,
            notes=dict(notes or {}),
            remarks=remarks,
            baseline=against.name,
            labels=dict(labels or {}),
            tuned=tuned,
            pruning=dict(pruning or {}),
            measured=measured,
        )
        known = known_in(root)
        study.jobs, study.threads = share_cores(max(len(study.trials()), trials), jobs)
        if known is not None:
            study._join(known)
        return study

    # -- the trials --------------------------------------------------------------------------------------

    def trials(self) -> list[TrialSpec]:
        """Every trial, seed by seed, the prerequisites before those that need them."""
        specs: dict[tuple[str, int], TrialSpec] = {}

        def add(arm: ChosenArm, seed: int) -> None:
            for needed in arm.requires:
                add(choose_arm(needed, self.problem), seed)
            spec = self._spec(arm, seed)
            specs.setdefault((spec.arm, spec.seed), spec)

        for seed in self.seeds:
            for arm in self.arms:
                add(arm, seed)
        return list(specs.values())

    def missing(self) -> list[TrialSpec]:
        """The trials without a result; an error if a folder is damaged or holds another trial.

        A trial that is no row is missing only where one that needs it is: a packed run has no teachers.
        """
        without = []
        for spec in self.trials():
            known = trial_of(spec).check_settings()
            if not known or storage.read_result(spec.folder) is None:
                without.append(spec)
        requires, wanted = self._requires(), {arm.name for arm in self.arms}
        needed: set[tuple[str, int]] = set()
        missing = []
        for spec in reversed(without):  # what a trial needs comes before it
            if spec.arm in wanted or (spec.arm, spec.seed) in needed:
                missing.append(spec)
                needed.update(requires[spec.arm, spec.seed])
        return missing[::-1]

    def _spec(self, arm: ChosenArm, seed: int) -> TrialSpec:
        pruning = self.pruning.get(arm.name)
        spec = TrialSpec(
            self.source,
            arm.name,
            seed,
            self.epochs,
            self.root,
            self.device,
            self.fast,
            self.threads,
            pruning,
            self.measured,
        )
        return spec_of(spec, arm, self.problem)

    def _requires(self) -> dict[tuple[str, int], list[tuple[str, int]]]:
        requires: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for spec in self.trials():
            needed = [choose_arm(arm, self.problem) for arm in choose_arm(spec.arm, self.problem).requires]
            needed_specs = [self._spec(arm, spec.seed) for arm in needed]
            requires[spec.arm, spec.seed] = [(each.arm, each.seed) for each in needed_specs]
        return requires

    # -- the folder --------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """What all trials of the folder share."""
        return {
            "source": self.source.identity(),
            "batch_size": self.problem.batch_size,
            "device": self.device,
            "fast": self.fast,
            "manyloss": __version__,
        }

    def _join(self, known: dict[str, Any]) -> None:
        """Take over what the folder already compares."""
        path = self.root / "study.json"
        try:
            then = {"problem": known["problem"], "epochs": known["epochs"]}
            settings = {"fast": False, **known["settings"]}  # which is younger than some folders
            then |= {name: settings.get(name) for name in self.settings()}
            then["tuned"] = known.get("tuned")
            labels = {str(k): str(v) for k, v in (known.get("labels") or {}).items()}
            self.labels = {**labels, **self.labels}
            self.pruning = {**(known.get("pruning") or {}), **self.pruning}
            # A row that was tuned anew has its new setting.
            kept = {*self.labels.values()}
            moved = {arm: self.labels[label] for label, arm in labels.items() if arm not in kept}
            arms = list(dict.fromkeys(moved.get(arm, arm) for arm in known["arms"]))
            seeds = [int(seed) for seed in known["seeds"]]
            threads = int(known["environment"]["threads_per_trial"])
            self.notes["created"] = known["created"]
            for name in OF_THE_BEGINNING:
                self.notes.pop(name, None)
                if name in settings:
                    self.notes[name] = dict(settings[name])
            self.commits = list(known["environment"].get("commits", []))
            self.machines = machines_in(known["environment"])
            self.data = {str(seed): str(said) for seed, said in known["environment"].get("data", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise checks.damaged(path, error) from error
        now = {"problem": self.problem.name, "epochs": self.epochs, **self.settings(), "tuned": self.tuned}
        differences = [
            f"{name} was {then[name]!r}, now {now[name]!r}"
            for name in now
            if storage.fingerprint({"": then[name]}) != storage.fingerprint({"": now[name]})
        ]
        if differences:
            raise checks.other_settings(self.root, differences)
        asked = [arm.name for arm in self.arms]
        before = choose_arms([arm for arm in arms if arm not in asked], self.problem)
        more_seeds = [seed for seed in seeds if seed not in self.seeds]
        if before:
            self.remarks.append(f"The folder also holds {', '.join(arm.name for arm in before)}.")
        if more_seeds:
            self.remarks.append(f"The folder also holds the seeds {', '.join(map(str, more_seeds))}.")
        order = arms + [name for name in asked if name not in arms]
        self.arms = sorted([*self.arms, *before], key=lambda arm: order.index(arm.name))
        self.seeds = sorted({*self.seeds, *seeds})
        now_at = commit()
        if self.commits and now_at is not None and now_at not in self.commits:
            self.remarks.append(
                f"Warning: the library is at {now_at}; the trials in the folder were trained at "
                f"{', '.join(self.commits)}. What is run now may not be comparable with them."
            )
        (here,) = machines_in(environment(threads))
        if self.machines and here not in self.machines:
            there = "; ".join(map(words_of_machine, self.machines))
            self.remarks.append(
                f"The trials in the folder were trained on {there}; here it is {words_of_machine(here)}. "
                "Results of one trial may differ in their last digits."
            )
        # The number of threads decides the last bits of a sum: a resumed trial keeps it.
        self.threads = threads

    def write(self) -> None:
        """Write study.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        notes = dict(self.notes)
        here = environment(self.threads)
        machines = without_repeats([*self.machines, *machines_in(here)])
        storage.write_json(
            self.root / "study.json",
            {
                "format": FORMAT,
                "problem": self.problem.name,
                "command": self.command,
                "created": notes.pop("created", now),
                "arms": [arm.name for arm in self.arms],
                "summaries": {arm.name: arm.arm.summary for arm in self.arms},
                "baseline": self.baseline,
                **({"labels": self.labels} if self.labels else {}),
                **({} if self.tuned is None else {"tuned": self.tuned}),
                **({"pruning": dict(self.pruning)} if self.pruning else {}),
                "seeds": self.seeds,
                "epochs": self.epochs,
                "metrics": self.problem.metric_directions(),
                "losses": list(self.problem.loss_names),
                **({"drawn_against": drawn} if (drawn := dict(self.problem.drawn_against)) else {}),
                "settings": {
                    **self.settings(),
                    "tested": self._tested(),
                    **notes,
                },
                "environment": {
                    **here,
                    "cores": cores(),
                    "jobs": self.jobs,
                    **({"machines": machines} if len(machines) > 1 else {}),
                    "data": self.data,
                    "commits": list(dict.fromkeys([*self.commits, *filter(None, [commit()])])),
                },
            },
        )

    def _is_written(self) -> bool:
        """Whether study.json has these rows and seeds, and where trials were taken from."""
        known = storage.read_json(self.root / "study.json") or {}
        now = [arm.name for arm in self.arms], self.labels, self.seeds, self.notes.get(TAKEN_OVER)
        then = known.get("arms"), known.get("labels", {}), known.get("seeds")
        return now == (*then, known.get("settings", {}).get(TAKEN_OVER))

    def _tested(self) -> str:
        """At which epoch the table's values are taken."""
        script = self.source.script
        if script is not None and chosen_on_what_is_shown(script.metrics):
            return "epoch best on the same metrics"
        return "last epoch" if self.problem.keep_last else "best epoch"

    def look_at_the_data(self, splits: Splits, seed: int) -> str | None:
        """Keep what the data of a seed look like; a warning if they looked otherwise before."""
        now = fingerprint_of(splits)
        before = self.data.setdefault(str(seed), now)
        if before == now:
            return None
        return (
            "Warning: the data are not those that the trials in the folder were trained on (their number, or "
            f"their first or last samples, differ for seed {seed}). Choose another folder with --out, unless "
            "you know that the difference does not matter."
        )

    # -- running -----------------------------------------------------------------------------------------

    def run(
        self,
        display: Display,
        *,
        retry: bool = False,
        timeout: float | None = None,
        executor: Executor | None = None,
        untried: bool = False,
    ) -> None:
        """Run what is missing.

        Args:
            display: what the user sees meanwhile.
            retry: crashed trials go on after their last epoch.
            timeout: seconds that one trial may take.
            executor: where trials run; processes on this machine when None.
            untried: stop when the first trials crash alike before their first epoch.

        Raises:
            StorageError: the folder cannot be used, or another study is writing to it.
            FruitlessError: they did.
            KeyboardInterrupt: stopped by the user. Everything but the running epochs is kept.

        """
        if not retry and not self.missing() and self._is_written():
            display.plan(len(self.trials()), [])
            return  # a finished folder is only read: it may be a read-only one
        storage.make_folder(self.root)
        with storage.only_writer(self.root, wait=5.0):
            storage.sweep(self.root)
            self.source = self.source.keep(self.root / "source")
            if retry:
                self._forget_crashes()
            self._forget_what_has_no_weights()
            missing = self.missing()
            if missing or not self._is_written():  # judging again changes no record
                self.write()
            display.plan(len(self.trials()), [spec.epochs for spec in missing])
            if missing:
                where = executor or Processes(min(self.jobs, len(missing)))
                with display:
                    Execution(missing, self._requires(), where, display, timeout, untried).run()

    def take_over(self, others: Sequence[Path]) -> None:
        """Copy the missing trials that other run folders hold, finished and of the same settings.

        A trial is a function of its settings and its data. How many came from where is among the notes.

        Raises:
            StorageError: a folder cannot be used, or another study is writing to this one.

        """
        if not others or not self.missing():
            return
        storage.make_folder(self.root)
        with storage.only_writer(self.root, wait=5.0):
            for root in others:
                self._take_over(root)

    def _take_over(self, root: Path) -> None:
        about = (storage.read_json(root / "study.json") or {}).get("environment", {})
        data = about.get("data", {})
        if any(self.data.get(seed, said) != said for seed, said in data.items()):
            return
        taken = 0
        for spec in self.missing():
            its_root = root if spec.root == self.root else shared_root(root, spec.root.name)
            trial = storage.trial_folder(its_root, spec.arm, spec.seed)
            try:
                known, result = storage.read_json(trial / "settings.json"), storage.read_result(trial)
            except checks.StorageError:
                continue  # what is damaged there is trained here
            finished = result is not None and result["status"] == "finished"
            if not finished or known is None:
                continue
            if known.get("hash") == storage.fingerprint(trial_of(spec).settings()):
                storage.copy_folder(trial, spec.folder)
                taken += 1
        if taken:
            there = root.absolute()
            above = there.parent.parent  # the run folder, of a reading
            run = above if (above / "study.json").exists() else there
            name = there.relative_to(run.parent).as_posix()
            before = self.notes.get(TAKEN_OVER, {})
            self.notes[TAKEN_OVER] = {**before, name: before.get(name, 0) + taken}
            self.data = {**data, **self.data}
            commits = about.get("commits", [])
            self.commits = list(dict.fromkeys([*self.commits, *commits]))
            self.machines = without_repeats([*self.machines, *machines_in(about)])
            trained = f", trained at {', '.join(commits)}" if commits else ""
            self.remarks.append(
                f"{taken} finished trials of the same settings are copied from {root}{trained}."
            )

    def _forget_crashes(self) -> None:
        for spec, _ in self.crashed():
            storage.remove(spec.folder / "result.json")

    def _forget_what_has_no_weights(self) -> None:
        """Of the trials whose weights missing ones need: those of a packed run are trained again."""
        requires = self._requires()
        needed = {
            key
            for spec in self.missing()
            if not choose_arm(spec.arm, self.problem).arm.averages  # which needs the result only
            for key in requires[spec.arm, spec.seed]
        }
        for spec in self.trials():
            if (spec.arm, spec.seed) in needed and not (spec.folder / "checkpoint.pt").exists():
                result = storage.read_result(spec.folder)
                if result is not None and result["status"] == "finished":
                    storage.remove(spec.folder / "result.json")

    def failures(self) -> list[tuple[TrialSpec, dict[str, Any]]]:
        """The trials that ended without finishing, with their results."""
        ended = [(spec, storage.read_result(spec.folder)) for spec in self.trials()]
        return [
            (spec, result) for spec, result in ended if result is not None and result["status"] != "finished"
        ]

    def crashed(self) -> list[tuple[TrialSpec, dict[str, Any]]]:
        """Those among the `failures` that ``retry`` lets go on."""
        return [(spec, result) for spec, result in self.failures() if result["status"] == "crashed"]


def known_in(root: Path) -> dict[str, Any] | None:
    """The folder's study.json; an error if the folder is something else."""
    if root.exists() and not root.is_dir():
        raise checks.cannot_write(root, NotADirectoryError(20, "Not a directory"))
    path = root / "study.json"
    known = storage.read_json(path)
    if known is None:
        try:
            inside = {item.name for item in root.iterdir()} if root.exists() else set()
        except OSError as error:
            raise checks.cannot_read(root, error) from error
        if inside - {".lock", "trials", "source", *PARTS, "tuning.json"} and "trials" not in inside:
            raise checks.occupied(root)
        return None
    if known.get("format") != FORMAT:
        raise checks.run_of_other_format(path, known.get("format"), FORMAT)
    return known


def fingerprint_of(splits: Splits) -> str:
    """What the splits look like: how many samples there are, and what the first and the last of them are."""
    digest = hashlib.sha256()
    for name in ("train", "validation", "test"):
        split: Any = getattr(splits, name)
        count = len(split)
        digest.update(f"{name} {count}".encode())
        for index in {0, count - 1}:
            torch.manual_seed(0)  # a sample may be augmented
            sample = (
                split.batch(torch.tensor([index]), None) if isinstance(split, BatchedSplit) else split[index]
            )
            _digest(sample, digest)
    return digest.hexdigest()[:16]


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(map(str, value)):
            digest.update(name.encode())
        for item in value.values():
            _digest(item, digest)
    elif isinstance(value, tuple | list):
        for item in value:
            _digest(item, digest)
    elif isinstance(value, torch.Tensor):
        digest.update(repr(value.detach().cpu().double().flatten().tolist()).encode())
    elif isinstance(value, bool | int | float | str):
        digest.update(repr(value).encode())


def commit() -> str | None:
    """The commit of a source checkout, "-dirty" behind it if files differ; None for an installed package."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
