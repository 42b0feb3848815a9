"""Study: trials that differ only in what is compared. Its folder is the database.

Running a study again into its folder finishes what is missing and repeats nothing. Running it with more
methods or seeds adds them. Running it with other settings is an error.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from manyloss import __version__
from manyloss.lab import checks
from manyloss.lab.arms import ChosenArm, choose_arm, choose_arms
from manyloss.lab.problem import BatchedSplit, Problem
from manyloss.lab.runs import storage
from manyloss.lab.runs.execution import Execution, cores, share_cores
from manyloss.lab.runs.progress import Display
from manyloss.lab.runs.source import Source, own_traceback
from manyloss.lab.runs.trial import Trial, TrialSpec, environment, spec_of

FORMAT = 1


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
    command: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    #: Of the source checkouts that trained a part of it.
    commits: list[str] = field(default_factory=list)
    #: What the plan does beyond what was asked for, in words.
    remarks: list[str] = field(default_factory=list)

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
        command: Sequence[str] = (),
        notes: dict[str, Any] | None = None,
    ) -> Study:
        """Decide what is compared, together with what the folder already holds.

        The baseline is added if it is not among the methods.

        Raises:
            BrokenProblemError: the user's file fails.
            LabError: an unknown recipe, method or option; a folder of another study.

        """
        problem = source.load()
        remarks: list[str] = []
        chosen = choose_arms(methods, problem)
        for arm in chosen:
            if arm.arm.shared:
                raise checks.only_a_prerequisite(arm.name)
        baseline = choose_arm(problem.baseline, problem)
        if baseline.name not in [arm.name for arm in chosen]:
            chosen.insert(0, baseline)
            remarks.append(f"{baseline.name} is added: it is what the others are compared with.")
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
            command=list(command) or sys.argv,
            notes=dict(notes or {}),
            remarks=remarks,
        )
        known = study._known()
        study.jobs, study.threads = share_cores(len(study.trials()), jobs)
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
        """The trials without a result; an error if a folder is damaged or holds another trial."""
        missing = []
        for spec in self.trials():
            known = Trial(spec).check_settings()
            result = storage.read_json(spec.folder / "result.json")
            if result is not None and "status" not in result:
                raise checks.damaged(spec.folder / "result.json", KeyError("status"))
            if not known or result is None:
                missing.append(spec)
        return missing

    def _spec(self, arm: ChosenArm, seed: int) -> TrialSpec:
        spec = TrialSpec(self.source, arm.name, seed, self.epochs, self.root, self.device, self.threads)
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
            "manyloss": __version__,
        }

    def _known(self) -> dict[str, Any] | None:
        """The folder's study.json; an error if the folder is something else."""
        if self.root.exists() and not self.root.is_dir():
            raise checks.cannot_write(self.root, NotADirectoryError(20, "Not a directory"))
        path = self.root / "study.json"
        known = storage.read_json(path)
        if known is None:
            try:
                inside = {item.name for item in self.root.iterdir()} if self.root.exists() else set()
            except OSError as error:
                raise checks.cannot_read(self.root, error) from error
            if inside - {".lock", "trials"} and "trials" not in inside:
                raise checks.occupied(self.root)
            return None
        if known.get("format") != FORMAT:
            raise checks.run_of_other_format(path, known.get("format"), FORMAT)
        return known

    def _join(self, known: dict[str, Any]) -> None:
        """Take over what the folder already compares."""
        path = self.root / "study.json"
        try:
            then = {"problem": known["problem"], "epochs": known["epochs"]}
            then |= {name: known["settings"].get(name) for name in self.settings()}
            arms, seeds = list(known["arms"]), [int(seed) for seed in known["seeds"]]
            threads = int(known["environment"]["threads_per_trial"])
            self.notes["created"] = known["created"]
            self.commits = list(known["environment"].get("commits", []))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise checks.damaged(path, error) from error
        now = {"problem": self.problem.name, "epochs": self.epochs, **self.settings()}
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
        # The number of threads decides the last bits of a sum: a resumed trial keeps it.
        self.threads = threads

    def write(self) -> None:
        """Write study.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        notes = dict(self.notes)
        storage.write_json(
            self.root / "study.json",
            {
                "format": FORMAT,
                "problem": self.problem.name,
                "command": self.command,
                "created": notes.pop("created", now),
                "arms": [arm.name for arm in self.arms],
                "summaries": {arm.name: arm.arm.summary for arm in self.arms},
                "baseline": choose_arm(self.problem.baseline, self.problem).name,
                "seeds": self.seeds,
                "epochs": self.epochs,
                "metrics": self.problem.metric_directions(),
                "losses": list(self.problem.loss_names),
                "settings": {
                    **self.settings(),
                    "tested": "last epoch" if self.problem.keep_last else "best epoch",
                    **notes,
                },
                "environment": {
                    **environment(self.threads),
                    "cores": cores(),
                    "jobs": self.jobs,
                    "commits": list(dict.fromkeys([*self.commits, *filter(None, [commit()])])),
                },
            },
        )

    # -- running -----------------------------------------------------------------------------------------

    def run(self, display: Display, *, retry: bool = False) -> None:
        """Run what is missing. With ``retry``, crashed trials go on after their last epoch.

        Raises:
            StorageError: the folder cannot be used, or another study is writing to it.
            KeyboardInterrupt: stopped by the user. Everything but the running epochs is kept.

        """
        storage.make_folder(self.root)
        with storage.only_writer(self.root, wait=5.0):
            if retry:
                self._forget_crashes()
            missing = self.missing()
            if missing or not (self.root / "study.json").exists():  # judging again changes no record
                self.write()
            display.plan(len(self.trials()), len(missing), self.epochs)
            if missing:
                jobs = min(self.jobs, len(missing))
                with display:
                    Execution(missing, self._requires(), jobs, display).run()

    def _forget_crashes(self) -> None:
        for spec in self.trials():
            path = spec.folder / "result.json"
            result = storage.read_json(path)
            if result is not None and result.get("status") == "crashed":
                try:
                    path.unlink()
                except OSError as error:
                    raise checks.cannot_write(path, error) from error

    def failures(self) -> list[tuple[TrialSpec, dict[str, Any]]]:
        """The trials that ended without finishing, with their results."""
        ended = [(spec, storage.read_json(spec.folder / "result.json")) for spec in self.trials()]
        return [
            (spec, result) for spec, result in ended if result is not None and result["status"] != "finished"
        ]


def try_out(problem: Problem, seed: int) -> None:
    """Run one small batch through a user's problem, so that its mistakes show before any trial starts.

    Raises:
        BrokenProblemError: the user's code fails; the text is its own traceback.

    """
    with own_traceback("its metrics were made"):
        problem.metric_directions()
    with own_traceback(f"datasets({seed}) was called"):
        splits = problem.datasets(seed)
        for name in ("train", "validation", "test"):
            if len(getattr(splits, name)) == 0:
                raise checks.empty_split(problem.name, name)
    with own_traceback("its model was made"):
        model = problem.model()
        problem.optimizer(model.parameters())
    with own_traceback("one batch was taken from the training split"):
        indices = torch.arange(min(4, len(splits.train)))  # type: ignore[arg-type]
        if isinstance(splits.train, BatchedSplit):
            inputs, targets = splits.train.batch(indices, torch.Generator().manual_seed(0))
        else:
            inputs, targets = default_collate([splits.train[i] for i in indices.tolist()])
    with own_traceback("one batch ran through its model and losses"), torch.no_grad():
        model.eval()
        _, outputs = model(inputs)
        problem.compute_losses(outputs, targets)
        metrics = problem.make_metrics()
        problem.update_metrics(metrics, outputs, targets)
    for name, metric in metrics.items():
        if not metric.update_called and name.partition("/")[0] not in targets:
            raise checks.metric_without_target(name, problem.metric_names[name], targets)


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
