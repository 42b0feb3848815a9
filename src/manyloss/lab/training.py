"""Training: one problem, one arm, one seed, without a file. It yields a record per epoch.

The initial weights and the order of the data depend on (problem, seed) only, so every arm starts from the
same point and sees the same batches. `Training.state_dict` holds all that decides how it goes on.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from manyloss import MultiLoss, linalg
from manyloss.diagnostics.purity import purity_of
from manyloss.diagnostics.running import RunningCosines, Span
from manyloss.errors import NotFiniteError
from manyloss.lab import checks
from manyloss.lab.optimizer import OptimizerSettings
from manyloss.lab.pictures import Pictures
from manyloss.lab.problem import BatchedSplit, EncoderWithHeads, FinalEvaluation, Problem
from manyloss.result import StepResult

FORMAT = 3
#: About so many records of losses, weights, norms and cosines per training.
RECORDS = 200
#: Seconds between two reports of progress within an epoch.
REPORT_EVERY = 0.3
#: What torch.compile compiles with.
COMPILER = "inductor"

#: The name of a curve: what GradDrop passes of the gradients at the features, or would pass (figure 3c).
PASSED = "share of the gradients that GradDrop passes"

Progress = Callable[[float, Mapping[str, float]], None]
Record = dict[str, Any]


def silent(done: float, losses: Mapping[str, float]) -> None:
    """Progress that no one reads."""


class DivergedError(Exception):
    """Training left the finite numbers."""


# -- what makes a step --------------------------------------------------------------------------------------


class Trainer(ABC):
    """Makes the step of one batch, with its own state: a MultiLoss, or a defense or distiller in its place.

    ``watched`` are numbers of the last step that are worth a look (the accuracy of an adversary), recorded
    now and then; ``warnings`` counts sentences about what went wrong, each under its own words.
    """

    def __init__(self) -> None:
        self.watched: Mapping[str, float] = {}
        self.warnings: dict[str, int] = {}

    @abstractmethod
    def step(self, model: nn.Module, inputs: Any, targets: Mapping[str, Any]) -> StepResult:
        """Leave gradients in the model's ``.grad``; the training steps its optimiser."""

    def differentiated_once(self, model: nn.Module) -> Sequence[nn.Module]:
        """The modules whose graph a step goes through one time only: torch.compile allows no more."""
        return ()

    def set_progress(self, fraction: float) -> None:  # noqa: B027  most have no schedule
        """Tell how much of the training is done, epoch / epochs."""

    def end_epoch(self) -> None:  # noqa: B027
        """Tell that an epoch is over."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs beside the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_dict` gave."""


class MultiLossTrainer(Trainer):
    """The problem's own step with a MultiLoss."""

    def __init__(self, multi: MultiLoss, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self.multi, self.problem = multi, problem
        # GradNorm's W and CosReg's layer are one thing, where inner products are taken another.
        measures = multi.needs.norms or multi.needs.differentiable
        self.shared_params = problem.shared_params(model) if measures else problem.compared_at(model)

    def step(self, model: nn.Module, inputs: Any, targets: Mapping[str, Any]) -> StepResult:
        """`Problem.training_step`."""
        return self.problem.training_step(model, self.multi, inputs, targets, self.shared_params)

    def differentiated_once(self, model: nn.Module) -> Sequence[nn.Module]:
        """The encoder of a method that reads nothing at its layers; a whole network with one loss.

        What is differentiated again goes through the encoder twice, too; what a problem's own step reads, no
        one knows.
        """
        own_step = type(self.problem).training_step is not Problem.training_step
        if own_step or self.shared_params is not None or self.multi.needs.differentiable:
            return ()
        encoder = getattr(model, "encoder", None)
        if isinstance(encoder, nn.Module):
            return (encoder,)
        return (model,) if len(self.problem.active_names) == 1 else ()

    def set_progress(self, fraction: float) -> None:
        """Pass it on."""
        self.multi.set_progress(fraction)

    def end_epoch(self) -> None:
        """Pass it on."""
        self.multi.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Of the MultiLoss."""
        return self.multi.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of the MultiLoss."""
        self.multi.load_state_dict(dict(state))


# -- state --------------------------------------------------------------------------------------------------


@dataclass
class State:
    """All that a training knows about itself, beside model, optimiser, method and random generators."""

    epoch: int = 0
    #: The epoch that is tested: "epoch", "score", "validation", and "model", its weights.
    best: dict[str, Any] | None = None
    #: Validation metrics after the first epoch: the units of `Problem.score`.
    first: dict[str, float] = field(default_factory=dict)
    weight_sums: dict[str, float] = field(default_factory=dict)
    weight_steps: int = 0
    step_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    #: Of the losses' gradients, as a `ConflictRecorder` keeps them; None before the first were measured.
    cosines: RunningCosines | None = None
    #: Epoch, and the share of the gradients at the features that GradDrop passes, or would pass.
    passed: list[tuple[int, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors."""
        best = self.best
        self_without_best = asdict(State(**{**vars(self), "best": None}))
        return {**self_without_best, "best": best}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> State:
        """What `to_dict` gave."""
        cosines = values["cosines"]
        return cls(**{**values, "cosines": None if cosines is None else RunningCosines(**cosines)})

    def sigma(self, names: Sequence[str], span: Span) -> dict[str, float]:
        """Sample standard deviation (n - 1) of each pair's cosine; a pair seen once has none."""
        found = {} if self.cosines is None else self.cosines.std(names, span)
        return {pair: value for pair, value in found.items() if math.isfinite(value)}


class TrainedArm(Protocol):
    """What a training asks of its arm (`arms.ChosenArm`)."""

    @property
    def optimizer(self) -> OptimizerSettings:
        """What it changes about the problem's optimiser."""
        ...

    def build(self, context: Any) -> MultiLoss | Trainer:
        """What makes the steps."""
        ...


# -- training -----------------------------------------------------------------------------------------------


class Training:
    """Iterate over `epochs`, then ask for `result`.

    Args:
        problem: with the arm's changes, and ``epochs`` as they are to be.
        arm: builds the method from a context.
        seed: of weights, data order and method.
        context: of the model and its loss names -> what ``arm.build`` is given.
        device: where to train.
        fast: steps in bfloat16 (autocast), channels last, and compiled what a step goes through once;
            evaluation is in full precision.
        seed_name: what the seeds are made of, together with ``seed``; the problem's name when None.

    """

    def __init__(
        self,
        problem: Problem,
        arm: TrainedArm,
        seed: int,
        context: Callable[[nn.Module], Any],
        *,
        device: str | torch.device = "cpu",
        fast: bool = False,
        seed_name: str | None = None,
    ) -> None:
        self.problem = problem
        self.seed = seed
        self.device = torch.device(device)
        name = problem.name if seed_name is None else seed_name
        seed_everything(seed_for(name, seed, "data"))
        self.splits = problem.datasets(seed)
        for which in ("train", "validation", "test"):
            if len(getattr(self.splits, which)) == 0:
                raise checks.empty_split(problem.name, which)
        seed_everything(seed_for(name, seed, "weights"))
        self.model = problem.model().to(self.device)
        if isinstance(self.model, EncoderWithHeads):
            self.model.selected = problem.selected
        self.shared_params = problem.shared_params(self.model)
        self.optimizer = problem.optimizer(self.model.parameters())
        self.scheduler = problem.schedule(self.optimizer)
        self.lr_factor = arm.optimizer.lr_factor
        arm.optimizer.apply(self.optimizer)
        self.context = context(self.model)
        made = arm.build(self.context)
        self.trainer = MultiLossTrainer(made, problem, self.model) if isinstance(made, MultiLoss) else made
        problem.prepare(self.model, self.trainer)
        self.fast = fast
        if fast:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.compile_parts()
        self.metrics = {name: metric.to(self.device) for name, metric in problem.make_metrics().items()}
        self.order = torch.Generator().manual_seed(seed_for(name, seed, "order"))
        seed_everything(seed_for(name, seed, "training"))
        examples = len(self.splits.train)  # type: ignore[arg-type]
        self.steps_per_epoch = max(1, examples // problem.batch_size)
        self.record_every = max(1, round(self.steps_per_epoch * problem.epochs / RECORDS))
        #: One loss alone has no cosine.
        self.measured_epochs = problem.measured_epochs if len(problem.active_names) > 1 else 0
        self.state = State()
        #: What the running epoch, or the last one, recorded at single steps.
        self.step_records: list[Record] = []
        #: Accuracies that the trainer watches, such as an adversary's, over the running epoch.
        self._watched = _Means()

    def epochs(self, progress: Progress = silent) -> Iterator[Record]:
        """Train the epochs that are left, and yield each one's record.

        Args:
            progress: called with the epochs done (a float) and the latest mean losses.

        Raises:
            DivergedError: a loss, a gradient or a parameter is not finite.

        """
        progress(self.state.epoch, {})
        while self.state.epoch < self.problem.epochs:
            record = self._epoch(progress)
            yield record  # whoever keeps it does so before the next sign of progress
            progress(self.state.epoch, record["train"])

    # -- state -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Between two epochs: plain data and tensors."""
        return {
            "format": FORMAT,
            "state": self.state.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "method": self.trainer.state_dict(),
            "order": self.order.get_state(),
            "random": random_states(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called, bit by bit."""
        if saved["format"] != FORMAT:
            raise ValueError(f"format {saved['format']!r}, this version reads {FORMAT}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.trainer.load_state_dict(saved["method"])
        self.order.set_state(saved["order"].cpu())
        set_random_states(saved["random"])
        self.state = State.from_dict(saved["state"])

    # -- one epoch ---------------------------------------------------------------------------------------

    def _epoch(self, progress: Progress) -> Record:
        started = reported = time.perf_counter()
        problem, state = self.problem, self.state
        learning_rate = self.optimizer.param_groups[0]["lr"] * self.lr_factor
        problem.start_epoch(self.trainer, state.epoch)
        self.model.train()
        self.step_records = []
        order = torch.randperm(len(self.splits.train), generator=self.order)  # type: ignore[arg-type]
        # An incomplete last batch is left out: every step of every arm sees as many examples.
        size = min(problem.batch_size, len(order))
        losses, self._watched = _Means(), _Means()
        milliseconds: list[float] = []
        for index in range(self.steps_per_epoch):
            step = state.epoch * self.steps_per_epoch + index
            inputs, targets = self._batch(
                self.splits.train, order[index * size : (index + 1) * size], self.order
            )
            milliseconds.append(self._step(step, inputs, targets, losses))
            now = time.perf_counter()
            if now - reported > REPORT_EVERY:
                reported = now
                progress(state.epoch + (index + 1) / self.steps_per_epoch, losses.means())
        state.epoch += 1
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise DivergedError(f"epoch {state.epoch}: a parameter of the model is not finite.")
        if self.scheduler is not None:
            self.scheduler.step()
        self.trainer.end_epoch()
        values, validation_losses = self.evaluate(self.splits.validation)
        self._choose(values)
        along = self._along()
        state.step_ms.append(statistics.median(milliseconds))
        seconds = time.perf_counter() - started
        state.seconds += seconds
        return {
            "epoch": state.epoch,
            "steps": self.steps_per_epoch,
            "learning_rate": float(learning_rate),
            "seconds": seconds,
            "step_ms": state.step_ms[-1],
            "train": losses.means(),
            "validation": {"metrics": values, "losses": validation_losses},
            **({"along": along} if along else {}),
        }

    def _along(self) -> dict[str, float]:
        """`Problem.after_epoch`, which leaves no trace in the training, and what methods watch and pass."""
        before = random_states()
        passed = [share for epoch, share in self.state.passed if epoch == self.state.epoch - 1]
        try:
            found = dict(self.problem.after_epoch(self.model, self.splits, self.state.epoch))
            found |= self._watched.means()
            return found | ({PASSED: statistics.fmean(passed)} if passed else {})
        finally:
            set_random_states(before)
            self.model.train()

    def batch(self, index: int) -> tuple[Any, Any]:
        """The examples of one training batch, in the order of the split: for trying a step."""
        size = min(self.problem.batch_size, len(self.splits.train))  # type: ignore[arg-type]
        rows = torch.arange(index * size, (index + 1) * size)
        return self._batch(self.splits.train, rows, torch.Generator().manual_seed(0))

    def step(self, step: int, inputs: Any, targets: Any) -> float:
        """One step on this batch; its milliseconds."""
        return self._step(step, inputs, targets, _Means())

    def _step(self, step: int, inputs: Any, targets: Any, losses: _Means) -> float:
        """One step; its milliseconds, without what is only measured."""
        state = self.state
        begin = self._clock()
        self.optimizer.zero_grad(set_to_none=True)
        where = f"epoch {state.epoch + 1}, step {step + 1}"
        try:
            with self._precision(), self.problem.training_precision(self.device):
                result = self.trainer.step(self.model, inputs, targets)
        except NotFiniteError as error:
            raise DivergedError(f"{where}: {error}") from error
        spent = self._clock() - begin
        values = {name: float(value) for name, value in result.losses.items()}
        weights = {name: float(value) for name, value in (result.weights or {}).items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"{where}: loss {name!r} is {value}.")
        losses.add(values)
        self._watched.add({name: v for name, v in self.trainer.watched.items() if "accuracy" in name})
        for name, value in weights.items():
            state.weight_sums[name] = state.weight_sums.get(name, 0.0) + value
        state.weight_steps += 1
        if step % self.record_every == 0 or state.epoch < self.measured_epochs:
            # Between backward and step: the parameters are still this step's, and ``.grad`` stays.
            self.step_records.append(self._record(step, values, weights, inputs, targets))
        begin = self._clock()
        if self.problem.clip_gradients is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.problem.clip_gradients)
        self.optimizer.step()
        return 1000 * (spent + self._clock() - begin)

    def compile_parts(self) -> None:
        """Compile, in place, what a step goes through once."""
        for module in self.trainer.differentiated_once(self.model):
            module.compile(backend=COMPILER)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.fast else nullcontext()

    def _choose(self, values: Mapping[str, float]) -> None:
        """Keep this epoch's weights if it is the best on validation, or always, as the problem says."""
        state = self.state
        state.first = state.first or dict(values)
        score = float(state.epoch) if self.problem.keep_last else self.problem.score(values, state.first)
        if state.best is None or score > state.best["score"] or math.isnan(state.best["score"]):
            state.best = {
                "epoch": state.epoch,
                "score": score,
                "validation": dict(values),
                "model": {name: _copy(value) for name, value in self.model.state_dict().items()},
            }

    def _batch(self, split: Any, indices: Tensor, generator: torch.Generator | None) -> tuple[Any, Any]:
        inputs, targets = take_batch(self.problem, split, indices, generator)
        if self.device.type == "cpu":
            return inputs, targets
        return _to(inputs, self.device), _to(targets, self.device)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    # -- what is recorded --------------------------------------------------------------------------------

    def _record(
        self,
        step: int,
        losses: Mapping[str, float],
        weights: Mapping[str, float],
        inputs: Any,
        targets: Any,
    ) -> Record:
        record: Record = {
            "step": step + 1,
            "epoch": self.state.epoch + 1,
            "losses": dict(losses),
            "weights": dict(weights) or dict.fromkeys(losses, 1.0),
            "norms": None,
            "cosines": None,
            "names": list(losses),
        }
        if self.trainer.watched:
            record["watched"] = dict(self.trainer.watched)
        measured = self._measure(inputs, targets)
        if measured is None:
            return record
        rows, places = measured
        names = list(rows)
        gradients = [torch.stack(parts) for parts in zip(*rows.values(), strict=True)]  # [T, ...] each
        gramian = linalg.gramian(gradients)
        norms, cosines = gramian.diagonal().sqrt(), linalg.cosines(gramian)
        record |= {
            "names": names,
            "norms": dict(zip(names, norms.tolist(), strict=True)),
            "cosines": [[round(c, 6) for c in row] for row in cosines.tolist()],
        }
        if not self.shared_params and len(names) > 1:
            self._record_purity(record, gradients, places)
        self._keep_cosines(names, torch.where(norms[:, None] * norms > 0, cosines, torch.nan))
        return record

    def _keep_cosines(self, names: Sequence[str], cosines: Tensor) -> None:
        """[T, T], NaN beside a gradient of zero."""
        every = self.problem.loss_names
        if self.state.cosines is None:
            self.state.cosines = RunningCosines.empty(len(every))
        self.state.cosines.epoch_ended = self.state.epoch > 0
        self.state.cosines.add([every.index(name) for name in names], cosines)

    def _record_purity(self, record: Record, gradients: Sequence[Tensor], features: Sequence[Tensor]) -> None:
        """The share of the gradients at the features that GradDrop passes, or would pass."""
        purity = purity_of(gradients, features)
        if purity is not None:
            record["passed"] = purity.passed
            self.state.passed.append((self.state.epoch, purity.passed))

    def _measure(self, inputs: Any, targets: Any) -> tuple[dict[str, list[Tensor]], Sequence[Tensor]] | None:
        """The unweighted gradient of each loss of this batch, for each arm alike: loss -> tensors, and where.

        At the shared parameters where the problem has them, else at the features. The forward pass of its own
        leaves no trace: random state and buffers are put back. It is not compiled: its graph is gone through
        once per loss.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        eager = torch.compiler.set_stance("force_eager") if self.fast else nullcontext()
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), eager:
            try:
                measured = self.problem.measured_losses(self.model, inputs, targets)
                if measured is None:
                    return None
                features, found = measured
                if self.shared_params:
                    places = list(self.shared_params)
                else:
                    places = [features] if isinstance(features, Tensor) else list(features or ())
                rows = {name: _gradient(loss, places) for name, loss in found.items() if loss is not None}
                return rows, places
            finally:
                with torch.no_grad():
                    for buffer, value in buffers:
                        buffer.copy_(value)

    # -- evaluation --------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, split: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics (with the derived ones) and mean losses on a split."""
        problem = self.problem
        self.model.eval()
        for metric in self.metrics.values():
            metric.reset()
        means = _Means()
        for indices in torch.split(torch.arange(len(split)), problem.evaluation_batch_size):
            inputs, targets = self._batch(split, indices, None)
            _, outputs = self.model(inputs)
            outputs = {name: _contiguous(output) for name, output in outputs.items()}
            problem.update_metrics(self.metrics, outputs, targets)
            losses = problem.active_losses(problem.compute_losses(outputs, targets))
            means.add({name: float(loss) for name, loss in losses.items() if loss is not None}, len(indices))
        self.model.train()
        values = {name: _one_number(name, metric) for name, metric in self.metrics.items()}
        if problem.selected is None:
            values |= problem.derive(values)
        return values, means.means()

    def result(self) -> Record:
        """The best epoch's weights meet the test split, once; before them those of the last, where asked."""
        state, problem = self.state, self.problem
        assert state.best is not None
        after_last = self.evaluate(self.splits.test)[0] if problem.tested_last else {}
        last = {
            problem.after_last_epoch(name): after_last[name]
            for name in problem.tested_last
            if name in after_last
        }
        self.model.load_state_dict(state.best["model"])
        test, test_losses = self.evaluate(self.splits.test)
        counts = {name: _decisions(metric) for name, metric in self.metrics.items()}
        decisions = {name: count for name, count in counts.items() if count}
        self.model.eval()
        final = problem.final_evaluation(self.model, self.splits, self.context) or FinalEvaluation()
        extra = {
            "words": dict(final.words),
            "remarks": list(final.remarks),
            "record": dict(final.record),
            "warnings": dict(self.trainer.warnings),
        }
        return {
            "status": "finished",
            "reason": None,
            "best_epoch": state.best["epoch"],
            "validation": state.best["validation"],
            "test": test | last | dict(final.metrics),
            "test_losses": test_losses,
            "decisions": decisions,
            "step_ms": statistics.median(state.step_ms),
            "seconds": state.seconds,
            "cosine_std": state.sigma(self.problem.loss_names, "training"),
            "cosine_std_first_epoch": state.sigma(self.problem.loss_names, "first_epoch"),
            "passed": _first_and_last(state.passed),
            "mean_weights": {name: total / state.weight_steps for name, total in state.weight_sums.items()},
            "measured_at": "shared_params" if self.shared_params else "features",
            **{name: value for name, value in extra.items() if value},
        }

    @torch.no_grad()
    def pictures(self) -> Pictures | None:
        """What the problem shows of the first test examples, by the weights that `result` tested."""
        if not self.problem.shown:
            return None
        indices = torch.arange(min(self.problem.shown, len(self.splits.test)))  # type: ignore[arg-type]
        inputs, targets = self._batch(self.splits.test, indices, None)
        self.model.eval()
        _, outputs = self.model(inputs)
        return self.problem.pictures(inputs, outputs, targets)

    def ended(self, status: str, reason: str) -> Record:
        """The result of a training that did not reach its end."""
        return failure(status, reason, self.state)


def _first_and_last(passed: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Means of the first and of the last epoch that has a record, and by how much they differ."""
    if not passed:
        return {}
    first, last = (
        statistics.fmean(share for epoch, share in passed if epoch == passed[end][0]) for end in (0, -1)
    )
    return {"first epoch": first, "last epoch": last, "change": last - first}


def failure(status: str, reason: str, state: State | None = None) -> Record:
    """The result of a training without an end; what its last epochs found stays."""
    result: Record = {"status": status, "reason": reason, "best_epoch": None, "validation": {}, "test": {}}
    if state is not None and state.best is not None:
        result |= {"best_epoch": state.best["epoch"], "validation": state.best["validation"]}
    if state is not None and state.step_ms:
        result |= {"step_ms": statistics.median(state.step_ms), "seconds": state.seconds}
    return result


# -- batches and numbers ------------------------------------------------------------------------------------


def take_batch(
    problem: Problem, split: Any, indices: Tensor, generator: torch.Generator | None
) -> tuple[Any, Any]:
    """The inputs and targets of these examples, collated by the split itself or by the problem."""
    if isinstance(split, BatchedSplit):
        return split.batch(indices, generator)
    samples = [split[i] for i in indices.tolist()]
    own = type(problem).collate_fn is not Problem.collate_fn
    if not own:
        check_sample(problem.name, samples[0])
    batch = problem.collate_fn(samples)
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Mapping):
        raise checks.not_a_batch(problem.name, batch)
    return batch[0], batch[1]


def check_sample(problem: str, sample: Any) -> None:
    """Torch's collating takes a pair of an input and targets by task, without None inside."""
    if not isinstance(sample, tuple | list) or len(sample) != 2 or not isinstance(sample[1], Mapping):
        raise checks.not_a_sample(problem, sample)
    for task, target in sample[1].items():
        if target is None:
            raise checks.target_is_none(problem, str(task))


class _Means:
    """Running means by name; a name counts only where it is present."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float], count: int = 1) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * count
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        return {name: self.sums[name] / self.counts[name] for name in self.sums}


def _gradient(loss: Tensor, places: Sequence[Tensor]) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(place) for place in places]
    found = torch.autograd.grad(loss, list(places), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, places, strict=True)]


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


def _decisions(metric: Any) -> int:
    """Of how many decisions an accuracy is the right share; 0 for metrics of another kind."""
    if not any("Accuracy" in kind.__name__ for kind in type(metric).__mro__):
        return 0
    right, wrong = getattr(metric, "tp", None), getattr(metric, "fn", None)
    if not isinstance(right, Tensor) or not isinstance(wrong, Tensor):
        return 0
    return int(right.sum() + wrong.sum())


def _contiguous(output: Any) -> Any:
    """For metrics that view a tensor in another shape: channels may come last."""
    return output.contiguous() if isinstance(output, Tensor) else output


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _to(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to(item, device) for item in value)
    return value


# -- random numbers -----------------------------------------------------------------------------------------


def seed_for(problem: str, seed: int, purpose: str) -> int:
    """A seed that differs between problems, seeds and purposes, and never between arms."""
    digest = hashlib.sha256(f"{problem}/{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """All generators that a user's code may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """Of all generators that a user's code may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put back what `random_states` gave."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])
