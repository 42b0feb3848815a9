"""Trial: one problem, one arm, one seed. It runs an epoch at a time and can be killed and resumed anywhere.

A trial is a pure function of its settings: the initial weights and the order of the data depend on (problem,
seed) only, so every arm starts from the same point and sees the same batches. The checkpoint, replaced as a
whole after every epoch, is the truth: what the other files hold beyond it is cut off before going on.
"""

from __future__ import annotations

import hashlib
import io
import math
import platform
import random
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from manyloss import __version__
from manyloss import checks as library_checks
from manyloss.adversarial._reading import frozen_statistics
from manyloss.checks import NotFiniteError
from manyloss.gradients import LossGradients, read_losses
from manyloss.lab import checks
from manyloss.lab.arms import ArmContext, ChosenArm, choose_arm
from manyloss.lab.problem import BatchedSplit, EncoderWithHeads, FinalEvaluation, Problem, Splits
from manyloss.lab.runs import storage
from manyloss.lab.runs.source import Source
from manyloss.lab.training import WayOfTraining
from manyloss.result import StepResult

FORMAT = 1
#: About so many records of losses, weights, norms and cosines per trial.
RECORDS = 200
#: Seconds between two reports of progress within an epoch.
REPORT_EVERY = 0.3
#: What torch.compile compiles with, where a GPU is there.
COMPILER = "inductor"

Progress = Callable[[float, Mapping[str, float]], None]


def _silent(done: float, losses: Mapping[str, float]) -> None:
    """Progress that no one reads."""


@dataclass(frozen=True)
class TrialSpec:
    """What decides a trial; small and picklable, since another process runs it."""

    source: Source
    arm: str
    seed: int
    epochs: int
    root: Path
    device: str = "cpu"
    threads: int = 1

    @property
    def folder(self) -> Path:
        """Where the trial writes."""
        return storage.trial_folder(self.root, self.arm, self.seed)

    @property
    def label(self) -> str:
        """What the trial is called in messages."""
        return f"{self.arm} seed {self.seed}"


def spec_of(spec: TrialSpec, arm: ChosenArm, problem: Problem) -> TrialSpec:
    """The trial of another arm that ``spec`` belongs together with, or that it needs.

    A shared arm has one trial for all seeds, in a folder beside the run folder. Its name holds a hash of what
    decides it, so that every study that needs the same teacher finds the same one.
    """
    epochs = spec.epochs if arm.arm.epochs is None else int(getattr(problem, arm.arm.epochs))
    if not arm.arm.shared:
        return replace(spec, arm=arm.name, epochs=epochs)
    alone = replace(spec, arm=arm.name, epochs=epochs, seed=0)
    name = f"{arm.name}-{storage.fingerprint(_shared_identity(alone, problem))}"
    return replace(alone, root=spec.root.absolute().parent / "prerequisites" / name)


def _shared_identity(spec: TrialSpec, problem: Problem) -> dict[str, Any]:
    """What decides a shared trial, whichever recipe of the same problem class asks for it."""
    options = {
        name: value for name, value in spec.source.options.items() if name not in problem.unshared_options
    }
    return {
        "problem": type(problem).__qualname__,
        "options": options,
        "arm": spec.arm,
        "epochs": spec.epochs,
        "device": spec.device,
    }


class DivergedError(Exception):
    """Training left the finite numbers."""


def environment(threads: int) -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "manyloss": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads_per_trial": threads,
    }


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def seed_for(problem: str, seed: int, purpose: str) -> int:
    """A seed that differs between problems, seeds and purposes, and never between arms."""
    digest = hashlib.sha256(f"{problem}/{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def write_failure(spec: TrialSpec, reason: str) -> dict[str, Any]:
    """The result of a trial whose process cannot write it any more, or that cannot start."""
    storage.make_folder(spec.folder)
    if not (spec.folder / "settings.json").exists():
        storage.write_json(spec.folder / "settings.json", {"arm": spec.arm, "seed": spec.seed})
    result = _failure("crashed", reason)
    storage.write_json(spec.folder / "result.json", result)
    return result


def _failure(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason, "best_epoch": None, "validation": {}, "test": {}}


class Trial:
    """Runs one trial in this process. Use `run`; it returns the content of result.json."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self.folder = spec.folder
        self.problem = spec.source.load()
        self.problem.epochs = spec.epochs
        self.chosen = choose_arm(spec.arm, self.problem)
        self.chosen.apply(self.problem)
        self.device = torch.device(spec.device)
        #: What the seeds are made of. A shared trial must not depend on who asked for it first.
        self.seed_name = type(self.problem).__qualname__ if self.chosen.arm.shared else self.problem.name

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        shared = self.chosen.arm.shared
        return {
            "problem": self.seed_name,
            "source": _shared_identity(self.spec, self.problem) if shared else self.spec.source.identity(),
            "arm": self.chosen.name,
            "options": {name: _plain(value) for name, value in self.chosen.options.items()},
            "changes": {name: _plain(value) for name, value in self.chosen.arm.problem.items()},
            "losses": list(self.problem.active_names),
            "requires": list(self.chosen.requires),
            "seed": self.spec.seed,
            "epochs": self.spec.epochs,
            "batch_size": self.problem.batch_size,
            "device": self.spec.device,
            "threads": None if shared else self.spec.threads,
            "manyloss": __version__,
        }

    def check_settings(self) -> bool:
        """Whether the folder holds this trial already; an error if it holds another one."""
        path = self.folder / "settings.json"
        found = storage.read_json(path)
        if found is None or "hash" not in found:
            return False
        settings = self.settings()
        if found["hash"] != storage.fingerprint(settings):
            differences = [
                f"{name} was {found.get(name)!r}, now {value!r}"
                for name, value in settings.items()
                if storage.fingerprint({"": found.get(name)}) != storage.fingerprint({"": value})
            ]
            raise checks.other_settings(path, differences)
        return True

    def run(self, progress: Progress = _silent) -> dict[str, Any]:
        """Train what is missing, read the test split once, and write the result.

        A trial that diverges or crashes has a result too, with its reason.

        Args:
            progress: called with the epochs done (a float) and the latest mean losses.

        Raises:
            StorageError: the folder is damaged, in use, of other settings, or cannot be written.

        """
        storage.make_folder(self.folder)
        with storage.only_writer(self.folder, wait=20.0):
            known = self.check_settings()
            done = storage.read_json(self.folder / "result.json")
            if known and done is not None:
                return done
            if not known:
                settings = self.settings()
                record = {
                    **settings,
                    "hash": storage.fingerprint(settings),
                    "environment": environment(self.spec.threads),
                }
                storage.write_json(self.folder / "settings.json", record)
            try:
                result = self._train_and_test(progress)
            except checks.StorageError:
                raise
            except DivergedError as error:
                result = self._ended("diverged", str(error))
            except checks.LabError as error:
                result = self._ended("crashed", str(error))
            except Exception as error:
                self._log(traceback.format_exc())
                text = " ".join(str(error).split())
                result = self._ended("crashed", f"{type(error).__name__}: {text}"[:500])
            storage.write_json(self.folder / "result.json", result)
        return result

    def _train_and_test(self, progress: Progress) -> dict[str, Any]:
        self._prepare()
        self._resume()
        progress(self.epoch, {})
        while self.epoch < self.spec.epochs:
            self._train_epoch(progress)
        return self._finish()

    def _ended(self, status: str, reason: str) -> dict[str, Any]:
        result = _failure(status, reason)
        best = getattr(self, "best", None)
        if best is not None:
            result |= {"best_epoch": best["epoch"], "validation": best["validation"]}
        if getattr(self, "step_ms", None):
            result |= {"step_ms": statistics.median(self.step_ms), "seconds": self.seconds}
        return result

    def _log(self, text: str) -> None:
        try:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise checks.cannot_write(self.folder / "log.txt", error) from error

    # -- build and resume --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Data, model, optimiser and method, as they are before the first step."""
        name, seed = self.seed_name, self.spec.seed
        _seed_everything(seed_for(name, seed, "data"))
        splits = self.problem.datasets(seed)
        self.splits: dict[str, Any] = {
            "train": splits.train,
            "validation": splits.validation,
            "test": splits.test,
        }
        for which, split in self.splits.items():
            if len(split) == 0:
                raise checks.empty_split(self.problem.name, which)
        _seed_everything(seed_for(name, seed, "weights"))
        self.model = self.problem.model().to(self.device)
        if self._fast:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(self.model, EncoderWithHeads):
            self.model.selected = self.problem.selected
        self.shared_params = self.problem.shared_params(self.model)
        self.optimizer = self.problem.optimizer(self.model.parameters())
        self.scheduler = self.problem.schedule(self.optimizer)
        needed = self._prerequisites()
        self.context = ArmContext(
            self.problem.active_names,
            seed,
            prerequisites={arm: result for arm, (result, _) in needed.items()},
            checkpoints={arm: checkpoint for arm, (_, checkpoint) in needed.items()},
            problem=self.problem,
            model=self.model,
            device=self.device,
        )
        self.multi = self.chosen.build(self.context)
        if self._fast:
            self._compile()
        self.metrics = {name: metric.to(self.device) for name, metric in self.problem.make_metrics().items()}
        self.order = torch.Generator().manual_seed(seed_for(name, seed, "order"))
        _seed_everything(seed_for(name, seed, "training"))

        examples = len(self.splits["train"])
        self.steps_per_epoch = max(1, examples // self.problem.batch_size)
        self.record_every = max(1, round(self.steps_per_epoch * self.spec.epochs / RECORDS))
        self.epoch = 0
        self.best: dict[str, Any] | None = None
        self.first: dict[str, float] = {}
        self.weight_sums: dict[str, float] = {}
        self.weight_steps = 0
        self.step_ms: list[float] = []
        self.seconds = 0.0

    def _prerequisites(self) -> dict[str, tuple[Mapping[str, Any], Path]]:
        """Arm -> its result and its checkpoint."""
        found: dict[str, tuple[Mapping[str, Any], Path]] = {}
        fresh = self.spec.source.load()
        for needed in self.chosen.requires:
            spec = spec_of(self.spec, choose_arm(needed, fresh), fresh)
            result = storage.read_json(spec.folder / "result.json")
            if result is None or result.get("status") != "finished":
                how = "has not run" if result is None else str(result.get("status"))
                raise checks.lost_prerequisite(self.chosen.name, needed, spec.seed, how)
            found[needed] = result, spec.folder / "checkpoint.pt"
        return found

    @property
    def _fast(self) -> bool:
        return self.problem.mixed_precision and self.device.type == "cuda"

    def _compile(self) -> None:
        """Compile, in place, what a step differentiates once."""
        who = self.multi if isinstance(self.multi, WayOfTraining) else self.problem
        for module in who.differentiated_once(self.model):
            module.compile(backend=COMPILER)

    def _training_precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self._fast else nullcontext()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _save(self) -> None:
        state = {
            "format": FORMAT,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "multi": self.multi.state_dict(),
            "order": self.order.get_state(),
            "random": _random_states(),
            "best": self.best,
            "first": self.first,
            "weight_sums": self.weight_sums,
            "weight_steps": self.weight_steps,
            "step_ms": self.step_ms,
            "seconds": self.seconds,
            "lengths": {name: storage.size(self.folder / name) for name in ("epochs.jsonl", "steps.jsonl")},
        }
        buffer = io.BytesIO()  # torch's own writer hides why it failed
        torch.save(state, buffer)
        storage.write_bytes(self._checkpoint, buffer.getvalue())

    def _resume(self) -> None:
        """Go back to the last checkpoint, or to the beginning if there is none."""
        state: dict[str, Any] | None = None
        if self._checkpoint.exists():
            try:
                # Not weights_only: a user's scheduler may keep objects of its own. The file is this trial's.
                state = torch.load(self._checkpoint, map_location=self.device, weights_only=False)
                assert state is not None
                if state["format"] != FORMAT:
                    raise ValueError(f"format {state['format']!r}, this version reads {FORMAT}")
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                if self.scheduler is not None:
                    self.scheduler.load_state_dict(state["scheduler"])
                self.multi.load_state_dict(state["multi"])
                self.order.set_state(state["order"].cpu())
                _set_random_states(state["random"])
            except OSError as error:
                raise checks.cannot_read(self._checkpoint, error) from error
            except Exception as error:
                raise checks.damaged(self._checkpoint, error) from error
            for name in ("epoch", "best", "first", "weight_sums", "weight_steps", "step_ms", "seconds"):
                setattr(self, name, state[name])
        lengths = state["lengths"] if state is not None else {"epochs.jsonl": 0, "steps.jsonl": 0}
        for file, length in lengths.items():
            storage.cut(self.folder / file, length)

    # -- one epoch ---------------------------------------------------------------------------------------

    def _train_epoch(self, progress: Progress) -> None:
        started = reported = time.perf_counter()
        problem = self.problem
        train = self.splits["train"]
        learning_rate = self.optimizer.param_groups[0]["lr"]
        if problem.methods_follow_schedule:
            self.multi.set_progress(self.epoch / self.spec.epochs)
        self.model.train()
        order = torch.randperm(len(train), generator=self.order)
        # An incomplete last batch is left out: every step of every arm sees as many examples.
        size = min(problem.batch_size, len(order))
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        milliseconds: list[float] = []
        for index in range(self.steps_per_epoch):
            step = self.epoch * self.steps_per_epoch + index
            inputs, targets = self._batch(train, order[index * size : (index + 1) * size], self.order)

            begin = self._clock()
            self.optimizer.zero_grad(set_to_none=True)
            try:
                with self._training_precision():
                    result = self._step(inputs, targets)
            except ValueError as error:
                if _is_about_finite_numbers(error):
                    raise DivergedError(f"epoch {self.epoch + 1}, step {step + 1}: {error}") from error
                raise
            spent = self._clock() - begin

            losses = {name: float(value) for name, value in result.losses.items()}
            weights = _floats(result.weights)
            for name, value in losses.items():
                if not math.isfinite(value):
                    raise DivergedError(f"epoch {self.epoch + 1}, step {step + 1}: loss {name!r} is {value}.")
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
            for name, value in (weights or {}).items():
                self.weight_sums[name] = self.weight_sums.get(name, 0.0) + value
            self.weight_steps += 1
            if step % self.record_every == 0:
                # Between backward and step: the parameters are still this step's, and ``.grad`` stays.
                self._record(step, losses, weights, self._measure(inputs, targets))

            begin = self._clock()
            if problem.clip_gradients is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), problem.clip_gradients)
            self.optimizer.step()
            milliseconds.append(1000 * (spent + self._clock() - begin))

            now = time.perf_counter()
            if now - reported > REPORT_EVERY:
                reported = now
                means = {name: sums[name] / counts[name] for name in sums}
                progress(self.epoch + (index + 1) / self.steps_per_epoch, means)

        self.epoch += 1
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise DivergedError(f"epoch {self.epoch}: a parameter of the model is not finite.")
        if self.scheduler is not None:
            self.scheduler.step()
        self.multi.end_epoch()
        values, validation_losses = self._evaluate("validation")
        self.first = self.first or values
        score = float(self.epoch) if problem.keep_last else problem.score(values, self.first)
        if self.best is None or score > self.best["score"] or math.isnan(self.best["score"]):
            self.best = {
                "epoch": self.epoch,
                "score": score,
                "validation": values,
                "model": {name: _copy(value) for name, value in self.model.state_dict().items()},
            }
        self.step_ms.append(statistics.median(milliseconds))
        seconds = time.perf_counter() - started
        self.seconds += seconds
        train_losses = {name: sums[name] / counts[name] for name in sums}
        storage.append_line(
            self.folder / "epochs.jsonl",
            {
                "epoch": self.epoch,
                "steps": self.steps_per_epoch,
                "learning_rate": float(learning_rate),
                "seconds": seconds,
                "step_ms": self.step_ms[-1],
                "train": train_losses,
                "validation": {"metrics": values, "losses": validation_losses},
            },
        )
        self._save()
        progress(self.epoch, train_losses)

    def _step(self, inputs: Any, targets: Any) -> StepResult:
        if isinstance(self.multi, WayOfTraining):
            return self.multi.step(self.model, inputs, targets)
        return self.problem.training_step(self.model, self.multi, inputs, targets, self.shared_params)

    def _batch(self, split: Any, indices: Tensor, generator: torch.Generator | None) -> tuple[Any, Any]:
        if isinstance(split, BatchedSplit):
            inputs, targets = split.batch(indices, generator)
        else:
            inputs, targets = default_collate([split[i] for i in indices.tolist()])
        if self.device.type == "cpu":
            return inputs, targets
        return _to(inputs, self.device), _to(targets, self.device)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _measure(self, inputs: Any, targets: Any) -> LossGradients | None:
        """The unweighted per-loss gradients of this batch, for every arm alike.

        At the shared parameters where the problem has them, else at the features. The forward pass of its own
        leaves no trace: random state and buffers are put back.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), frozen_statistics(self.model):
            measured = self.problem.measured_losses(self.model, inputs, targets)
            if measured is None:
                return None
            features, found = measured
            losses = {name: loss for name, loss in found.items() if loss is not None}
            names = list(losses)
            values = torch.stack([loss.detach().double().cpu() for loss in losses.values()])
            if self.shared_params:
                _, at = read_losses(list(losses.values()), names, (), (), list(self.shared_params))
                return LossGradients(names, values, at, "shared_params")
            places = [features] if isinstance(features, Tensor) else list(features)
            at, _ = read_losses(list(losses.values()), names, places, places, ())
            return LossGradients(names, values, at, "features")

    def _record(
        self,
        step: int,
        losses: Mapping[str, float],
        weights: Mapping[str, float] | None,
        gradients: LossGradients | None,
    ) -> None:
        record: dict[str, Any] = {
            "step": step + 1,
            "epoch": self.epoch + 1,
            "losses": losses,
            "weights": weights if weights is not None else dict.fromkeys(losses, 1.0),
            "norms": None,
            "cosines": None,
            "names": list(losses),
        }
        if isinstance(self.multi, WayOfTraining) and self.multi.watched:
            record["watched"] = dict(self.multi.watched)
        if gradients is not None:
            record["names"] = list(gradients.names)
            record["norms"] = dict(zip(gradients.names, gradients.norms.tolist(), strict=True))
            record["cosines"] = [[round(c, 6) for c in row] for row in gradients.cosines.tolist()]
        storage.append_line(self.folder / "steps.jsonl", record)

    # -- evaluation --------------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(self, which: str) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics (with the derived ones) and mean losses on a split."""
        problem, split = self.problem, self.splits[which]
        self.model.eval()
        for metric in self.metrics.values():
            metric.reset()
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for indices in torch.split(torch.arange(len(split)), problem.evaluation_batch_size):
            inputs, targets = self._batch(split, indices, None)
            _, outputs = self.model(inputs)
            problem.update_metrics(self.metrics, outputs, targets)
            for name, loss in problem.active_losses(problem.compute_losses(outputs, targets)).items():
                if loss is not None:
                    sums[name] = sums.get(name, 0.0) + float(loss) * len(indices)
                    counts[name] = counts.get(name, 0) + len(indices)
        self.model.train()
        values = {name: _one_number(name, metric) for name, metric in self.metrics.items()}
        if problem.selected is None:
            values |= problem.derive(values)
        return values, {name: sums[name] / counts[name] for name in sums}

    def _finish(self) -> dict[str, Any]:
        """The best epoch's weights meet the test split, once."""
        assert self.best is not None
        self.model.load_state_dict(self.best["model"])
        test, test_losses = self._evaluate("test")
        self.model.eval()
        final = self.problem.final_evaluation(self.model, Splits(**self.splits), self.context)
        final = final or FinalEvaluation()
        test |= final.metrics
        extra = {
            "words": dict(final.words),
            "remarks": list(final.remarks),
            "record": dict(final.record),
            "warnings": dict(self.multi.warnings) if isinstance(self.multi, WayOfTraining) else {},
            "prerequisites": {
                arm: {"test": result["test"]} for arm, result in self.context.prerequisites.items()
            },
        }
        return {
            "status": "finished",
            "reason": None,
            "best_epoch": self.best["epoch"],
            "validation": self.best["validation"],
            "test": test,
            "test_losses": test_losses,
            "step_ms": statistics.median(self.step_ms),
            "seconds": self.seconds,
            **self._cosine_spread(),
            "mean_weights": {name: total / self.weight_steps for name, total in self.weight_sums.items()},
            "measured_at": "shared_params" if self.shared_params else "features",
            **{name: value for name, value in extra.items() if value},
        }

    def _cosine_spread(self) -> dict[str, dict[str, float]]:
        """Standard deviation of each pair's cosine over the recorded steps: all epochs, and the first."""
        everywhere: dict[str, list[float]] = {}
        at_first: dict[str, list[float]] = {}
        for record in storage.read_lines(self.folder / "steps.jsonl"):
            if record["cosines"] is None:
                continue
            names = record["names"]
            for i in range(len(names)):
                for j in range(i + 1, len(names)):
                    cosine = record["cosines"][i][j]
                    if cosine is not None:
                        pair = f"{names[i]}, {names[j]}"
                        everywhere.setdefault(pair, []).append(cosine)
                        if record["epoch"] == 1:
                            at_first.setdefault(pair, []).append(cosine)
        return {
            "cosine_std": {pair: float(np.std(values)) for pair, values in everywhere.items()},
            "cosine_std_first_epoch": {pair: float(np.std(values)) for pair, values in at_first.items()},
        }


# -- small parts ------------------------------------------------------------------------------------------


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the user's code may draw from numpy's global generator
    random.seed(seed)


def _random_states() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])


def _is_about_finite_numbers(error: BaseException) -> bool:
    """Whether the library refused the step because a loss or gradient was not finite."""
    if isinstance(error, NotFiniteError):
        return True
    refusals = (library_checks.finite_losses.__code__, library_checks.finite_gradients.__code__)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_code in refusals


def _floats(values: Mapping[str, Tensor] | None) -> dict[str, float] | None:
    return None if values is None else {name: float(value) for name, value in values.items()}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _one_number(name: str, metric: Any) -> float:
    """NaN for a metric that no batch fed (its labels are all missing)."""
    if not metric.update_called:
        return math.nan
    value = metric.compute()
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    raise checks.not_a_number(name, value)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _to(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to(item, device) for item in value)
    return value


def _plain(value: Any) -> Any:
    """A JSON value that stays the same from process to process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
