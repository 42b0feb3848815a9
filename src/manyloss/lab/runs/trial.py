"""Trial: a training with a folder. It can be killed and resumed at any point.

A trial is a pure function of its settings. The checkpoint, replaced as a whole after every epoch, is the
truth: what the other files hold beyond it is cut off before going on. As a command of its own it is

    python -m manyloss.lab.runs.worker SPEC     SPEC: the JSON of `TrialSpec.to_json`, or a file that holds it
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manyloss import __version__
from manyloss.lab import checks
from manyloss.lab.arms import ArmContext, ChosenArm, choose_arm, is_of_an_arm, options_for
from manyloss.lab.problem import Problem
from manyloss.lab.pruning import PrunedError, Pruning
from manyloss.lab.runs import storage
from manyloss.lab.runs.machines import environment
from manyloss.lab.runs.source import Source, where_in_the_users_code
from manyloss.lab.training import DivergedError, OtherFormatError, Progress, Training, failure, silent

#: A sign of life is written at most so often, in seconds.
SIGN_EVERY = 0.5


@dataclass(frozen=True)
class TrialSpec:
    """What decides a trial; small, and JSON, since another process runs it."""

    source: Source
    arm: str
    seed: int
    epochs: int
    root: Path
    device: str = "cpu"
    fast: bool = False
    threads: int = 1
    #: `Pruning.to_dict`, for a setting that may stop early.
    pruning: Mapping[str, Any] | None = None
    #: Whether its losses' gradients are measured: nobody looks at those of a trial that only tries a setting
    #: or stands beside the table. It decides nothing, and is none of the settings.
    measured: bool = True

    @property
    def folder(self) -> Path:
        """Where the trial writes."""
        return storage.trial_folder(self.root, self.arm, self.seed)

    @property
    def label(self) -> str:
        """What the trial is called in messages."""
        return f"{self.arm} seed {self.seed}"

    def where(self) -> dict[str, Any]:
        """What belongs to a trial's settings of where and how fast it runs."""
        return {"device": self.device, **({"fast": True} if self.fast else {})}

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**vars(self), "source": self.source.to_dict(), "root": str(self.root)})

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """What `to_json` gave."""
        values = json.loads(text)
        return cls(**{**values, "source": Source.from_dict(values["source"]), "root": Path(values["root"])})


def spec_of(spec: TrialSpec, arm: ChosenArm, problem: Problem) -> TrialSpec:
    """The trial of another arm that ``spec`` belongs together with, or that it needs.

    A shared arm has one trial for all seeds, in a folder beside the run folder. Its name holds a hash of what
    decides it, so that every study that needs the same teacher finds the same one. Options of arms that it
    has nothing to do with are left out: they decide nothing.
    """
    if any(map(is_of_an_arm, spec.source.options)):
        options = options_for(arm, spec.source.options, problem)
        spec = replace(spec, source=replace(spec.source, options=options))
    epochs = spec.epochs if arm.arm.epochs is None else int(getattr(problem, arm.arm.epochs))
    if not arm.arm.shared:
        return replace(spec, arm=arm.name, epochs=epochs)
    alone = replace(spec, arm=arm.name, epochs=epochs, seed=0, measured=True)
    name = f"{arm.name}-{storage.fingerprint(_shared_identity(alone, arm, problem))}"
    return replace(alone, root=shared_root(spec.root, name))


def shared_root(run_folder: Path, name: str) -> Path:
    """Where a shared trial of this name lies for a run folder and those beside it."""
    return run_folder.absolute().parent / "prerequisites" / name


def _shared_identity(spec: TrialSpec, arm: ChosenArm, problem: Problem) -> dict[str, Any]:
    """What decides a shared trial, whichever recipe of the same problem class asks for it."""
    options = {
        name: value for name, value in spec.source.all_options().items() if name not in arm.arm.shared_despite
    }
    file = {"source": {**spec.source.identity(), "options": options}} if spec.source.is_file else {}
    return {
        "problem": type(problem).__qualname__,
        "options": options,
        "arm": spec.arm,
        "epochs": spec.epochs,
        **spec.where(),
        **file,
    }


def sign_of_life(folder: Path, done: float, values: Mapping[str, float]) -> None:
    """For whoever watches the folder; not worth a sync, nor an error."""
    text = json.dumps({"epochs": done, "losses": {name: f"{value:.4g}" for name, value in values.items()}})
    partial = folder / ".alive.partial"
    try:
        partial.unlink(missing_ok=True)
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
        partial.replace(folder / "alive.json")
    except OSError:
        pass


def thread_variables(threads: int) -> dict[str, str]:
    """What pools of native code read when they are loaded."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def write_failure(spec: TrialSpec, reason: str) -> dict[str, Any]:
    """The result of a trial whose process cannot write it any more, or that cannot start."""
    storage.make_folder(spec.folder)
    if not (spec.folder / "settings.json").exists():
        storage.write_json(spec.folder / "settings.json", {"arm": spec.arm, "seed": spec.seed})
    result = failure("crashed", reason)
    storage.write_json(spec.folder / "result.json", result)
    return result


class Trial:
    """Runs one trial in this process. Use `run`; it returns the content of result.json."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self.folder = spec.folder
        self.problem = spec.source.load()
        self.problem.epochs = spec.epochs
        self.chosen = choose_arm(spec.arm, self.problem)
        self.chosen.apply(self.problem)
        #: What the seeds are made of. A shared trial must not depend on who asked for it first.
        self.seed_name = type(self.problem).__qualname__ if self.chosen.arm.shared else self.problem.name
        self._last_sign = 0.0

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        shared = self.chosen.arm.shared
        source = (
            _shared_identity(self.spec, self.chosen, self.problem) if shared else self.spec.source.identity()
        )
        changed = self.chosen.optimizer
        return {
            "problem": self.seed_name,
            "source": source,
            "arm": self.chosen.name,
            "options": {name: _plain(value) for name, value in self.chosen.own_options.items()},
            **({"optimizer": vars(changed)} if changed.text else {}),
            **({} if self.spec.pruning is None else {"pruning": dict(self.spec.pruning)}),
            "changes": {name: _plain(value) for name, value in self.chosen.changes.items()},
            "losses": list(self.problem.active_names),
            "requires": list(self.chosen.requires),
            "seed": self.spec.seed,
            "epochs": self.spec.epochs,
            "batch_size": self.problem.batch_size,
            **self.spec.where(),
            "threads": None if shared else self.spec.threads,
            "manyloss": __version__,
        }

    def check_settings(self) -> bool:
        """Whether the folder holds this trial already; an error if it holds another one."""
        return storage.same_settings(self.folder / "settings.json", self.settings())

    def run(self, progress: Progress = silent) -> dict[str, Any]:
        """Train what is missing, read the test split once, and write the result.

        A trial that diverges or crashes has a result too, with its reason.

        Args:
            progress: called with the epochs done (a float) and the latest mean losses.

        Raises:
            StorageError: the folder is damaged, in use, of other settings, or cannot be written.

        """
        storage.make_folder(self.folder)
        with self.spec.source.on_path(), storage.only_writer(self.folder, wait=20.0):
            known = self.check_settings()
            done = storage.read_result(self.folder)
            if known and done is not None:
                return done
            storage.sweep(self.folder)
            if not known:
                storage.write_settings(self.folder, self.settings(), environment(self.spec.threads))
            result = self._train_and_test(progress)
            storage.write_json(self.folder / "result.json", result)
            (self.folder / "alive.json").unlink(missing_ok=True)
        return result

    def _train_and_test(self, progress: Progress) -> dict[str, Any]:
        training: Training | None = None

        def alive(done: float, losses: Mapping[str, float]) -> None:
            self._sign(done, losses)
            progress(done, losses)

        try:
            training = self.training()
            self._resume(training)
            self._stop_if_behind()
            for record in training.epochs(alive):
                self._keep(training, record)
                self._stop_if_behind()
            result = training.result()
            if (shown := training.pictures()) is not None:
                storage.write_pictures(self.folder / storage.PICTURES, shown)
            return result
        except checks.StorageError:
            raise
        except Exception as error:
            if training is not None:
                storage.append_lines(self.folder / "steps.jsonl", training.step_records)
            ended = training.ended if training is not None else failure
            if isinstance(error, DivergedError):
                return ended("diverged", str(error))
            if isinstance(error, PrunedError):
                return ended("pruned", str(error))
            if isinstance(error, checks.LabError):
                return ended("crashed", str(error))
            self._log(traceback.format_exc())
            text = " ".join(str(error).split())
            return ended("crashed", f"{type(error).__name__}: {text}"[:450] + where_in_the_users_code(error))

    def _stop_if_behind(self) -> None:
        if self.spec.pruning is None:
            return
        records = storage.read_lines(self.folder / "epochs.jsonl")
        epochs = [record["validation"]["metrics"] for record in records]
        reason = Pruning.from_dict(self.spec.pruning).behind([storage.numbers(values) for values in epochs])
        if reason is not None:
            raise PrunedError(reason)

    def _log(self, text: str) -> None:
        try:
            with open(storage.open_to_append(self.folder / "log.txt"), "ab") as file:
                file.write(text.encode("utf-8", "replace"))
        except OSError as error:
            raise checks.cannot_write(self.folder / "log.txt", error) from error

    def _sign(self, done: float, losses: Mapping[str, float]) -> None:
        """A sign of life, now and then."""
        now = time.monotonic()
        if now - self._last_sign < SIGN_EVERY:
            return
        self._last_sign = now
        sign_of_life(self.folder, done, losses)

    # -- build, keep and resume --------------------------------------------------------------------------

    def training(self) -> Training:
        """The training, as it is before the first step."""
        needed = self._prerequisites()

        def context(model: nn.Module) -> ArmContext:
            return ArmContext(
                self.problem.active_names,
                self.spec.seed,
                prerequisites={arm: result for arm, (result, _) in needed.items()},
                checkpoints={arm: checkpoint for arm, (_, checkpoint) in needed.items()},
                problem=self.problem,
                model=model,
                device=torch.device(self.spec.device),
            )

        return Training(
            self.problem,
            self.chosen,
            self.spec.seed,
            context,
            device=self.spec.device,
            fast=self.spec.fast,
            seed_name=self.seed_name,
            measured=self.spec.measured,
        )

    def _prerequisites(self) -> dict[str, tuple[Mapping[str, Any], Path]]:
        """Arm -> its result and its checkpoint."""
        found: dict[str, tuple[Mapping[str, Any], Path]] = {}
        fresh = self.spec.source.load()
        for needed in self.chosen.requires:
            spec = spec_of(self.spec, choose_arm(needed, fresh), fresh)
            result = storage.read_result(spec.folder)
            if result is None or result.get("status") != "finished":
                how = "has not run" if result is None else str(result.get("status"))
                raise checks.LabError(
                    f"{self.chosen.name!r} needs the trial {needed!r} of seed {spec.seed}, which {how}."
                )
            found[needed] = result, spec.folder / "checkpoint.pt"
        return found

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _keep(self, training: Training, record: Mapping[str, Any]) -> None:
        storage.append_lines(self.folder / "steps.jsonl", training.step_records)
        training.step_records = []
        storage.append_lines(self.folder / "epochs.jsonl", [record])
        lengths = {name: storage.size(self.folder / name) for name in ("epochs.jsonl", "steps.jsonl")}
        saved = {
            **training.state_dict(),
            "settings": storage.fingerprint(self.settings()),
            "lengths": lengths,
        }
        storage.write_tensors(self._checkpoint, saved)

    def _resume(self, training: Training) -> None:
        """Go back to the last checkpoint, or to the beginning if there is none."""
        lengths = {"epochs.jsonl": 0, "steps.jsonl": 0}
        if self._checkpoint.exists():
            saved = storage.load_tensors(self._checkpoint, training.device)
            if saved.get("settings") != storage.fingerprint(self.settings()):
                raise checks.StorageError(
                    f"{self._checkpoint} was made with other settings than those beside it. Delete the "
                    f"folder {self._checkpoint.parent} to train this trial from the start, and run the same "
                    "command again: the others are kept."
                )
            try:
                training.load_state_dict(saved)
                lengths = {name: int(saved["lengths"][name]) for name in lengths}
            except OtherFormatError as error:
                raise checks.of_another_version(self._checkpoint, error) from error
            except Exception as error:
                raise checks.damaged(self._checkpoint, error) from error
        for file, length in lengths.items():
            storage.cut(self.folder / file, length)


def _plain(value: Any) -> Any:
    """A JSON value that stays the same from process to process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
