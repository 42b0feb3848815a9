"""Training: one problem, one arm, one seed, without a file. It yields a record per epoch.

The initial weights and the order of the data depend on (problem, seed) only, so every arm starts from the
same point and sees the same batches. `Training.state_dict` holds all that decides how it goes on.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.errors import NotFiniteError
from manyloss.lab import checks
from manyloss.lab.pictures import Pictures
from manyloss.lab.problem import EncoderWithHeads, FinalEvaluation, Problem
from manyloss.lab.training.batches import take_batch, to_device
from manyloss.lab.training.evaluation import decisions, evaluate
from manyloss.lab.training.layout import to_channels_last
from manyloss.lab.training.randomness import random_states, seed_everything, seed_for, set_random_states
from manyloss.lab.training.recording import PASSED, Measured, Measuring, Recorder
from manyloss.lab.training.state import Means, Record, State, failure
from manyloss.lab.training.trainer import MultiLossTrainer, TrainedArm

FORMAT = 4
#: About so many records of losses, weights, norms and cosines per training.
RECORDS = 200
#: Seconds between two reports of progress within an epoch.
REPORT_EVERY = 0.3
#: What torch.compile compiles with.
COMPILER = "inductor"

Progress = Callable[[float, Mapping[str, float]], None]


def silent(done: float, losses: Mapping[str, float]) -> None:
    """Progress that no one reads."""


class DivergedError(Exception):
    """Training left the finite numbers."""


class OtherFormatError(ValueError):
    """A state was saved by a version that writes it otherwise."""


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
        measured: whether gradients are measured now and then, which costs time and changes nothing.

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
        measured: bool = True,
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
        self.recorder = Recorder(problem, self.model, self.device, fast=fast)
        self.optimizer = problem.optimizer(self.model.parameters())
        self.scheduler = problem.schedule(self.optimizer)
        self.lr_factor = arm.optimizer.lr_factor
        arm.optimizer.apply(self.optimizer)
        self.context = context(self.model)
        made = arm.build(self.context)
        self.trainer = MultiLossTrainer(made, problem, self.model) if isinstance(made, MultiLoss) else made
        problem.prepare(self.model, self.trainer)
        self.fast = fast
        self.measured = measured
        if fast or problem.channels_last:
            to_channels_last(self.model, self.device)
        if fast:
            self.compile_parts()
        self.metrics = {name: metric.to(self.device) for name, metric in problem.make_metrics().items()}
        self.order = torch.Generator().manual_seed(seed_for(name, seed, "order"))
        seed_everything(seed_for(name, seed, "training"))
        examples = len(self.splits.train)  # type: ignore[arg-type]
        self.steps_per_epoch = max(1, examples // problem.batch_size)
        self.record_every = max(1, round(self.steps_per_epoch * problem.epochs / RECORDS))
        has_cosines = len(problem.active_names) > 1
        self.measured_epochs = problem.measured_epochs if measured and has_cosines else 0
        self.state = State()
        #: What the running epoch, or the last one, recorded at single steps.
        self.step_records: list[Record] = []
        #: Accuracies that the trainer watches, such as an adversary's, over the running epoch.
        self._watched = Means()

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
            "warnings": self.trainer.warned(),
            "order": self.order.get_state(),
            "random": random_states(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called, bit by bit."""
        if saved["format"] != FORMAT:
            raise OtherFormatError(f"format {saved['format']!r}, this version reads {FORMAT}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.trainer.load_state_dict(saved["method"])
        self.trainer.warnings = dict(saved.get("warnings", {}))
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
        losses, self._watched = Means(), Means()
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
        return self._step(step, inputs, targets, Means())

    def _step(self, step: int, inputs: Any, targets: Any, losses: Means) -> float:
        """One step; its milliseconds, without what is only measured."""
        state = self.state
        due = step % self.record_every == 0 or state.epoch < self.measured_epochs
        # A compiled graph cannot be gone through once per loss: it is measured apart.
        within = due and self.measured and not self.fast
        measuring = Measuring(self.recorder, self._clock)
        begin = self._clock()
        self.optimizer.zero_grad(set_to_none=True)
        where = f"epoch {state.epoch + 1}, step {step + 1}"
        try:
            with self._precision(), self.problem.training_precision(self.device):
                if within:
                    result = self.trainer.step_measured(self.model, inputs, targets, measuring)
                else:
                    result = self.trainer.step(self.model, inputs, targets)
        except NotFiniteError as error:
            raise DivergedError(f"{where}: {error}") from error
        spent = self._clock() - begin - measuring.seconds
        values = {name: float(value) for name, value in result.losses.items()}
        weights = {name: float(value) for name, value in (result.weights or {}).items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"{where}: loss {name!r} is {value}.")
        losses.add(values)
        self._watched.add({name: v for name, v in self.trainer.watched.items() if "accuracy" in name})
        state.weights.add(weights)
        if due:
            # Between backward and step: the parameters are still this step's, and ``.grad`` stays.
            measured = measuring.measured
            if measured is None and self.measured:
                measured = self.recorder.measure_apart(inputs, targets)
            self.step_records.append(self._record(step, values, weights, measured))
        begin = self._clock()
        if self.problem.clip_gradients is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.problem.clip_gradients)
        self.optimizer.step()
        return 1000 * (spent + self._clock() - begin)

    def _record(
        self,
        step: int,
        losses: Mapping[str, float],
        weights: Mapping[str, float],
        measured: Measured | None,
    ) -> Record:
        record: Record = {
            "step": step + 1,
            "epoch": self.state.epoch + 1,
            "losses": dict(losses),
            "weights": dict(weights) or dict.fromkeys(losses, 1.0),
        }
        if self.trainer.watched:
            record["watched"] = dict(self.trainer.watched)
        return self.recorder.record(record, self.state, measured)

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
        return to_device(inputs, self.device), to_device(targets, self.device)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    # -- evaluation --------------------------------------------------------------------------------------

    def evaluate(self, split: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics (with the derived ones) and mean losses on a split."""
        parts = torch.split(torch.arange(len(split)), self.problem.evaluation_batch_size)
        batches = ((*self._batch(split, indices, None), len(indices)) for indices in parts)
        return evaluate(self.problem, self.model, self.metrics, batches)

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
        counts = {name: decisions(metric) for name, metric in self.metrics.items()}
        self.model.eval()
        final = problem.final_evaluation(self.model, self.splits, self.context) or FinalEvaluation()
        extra = {
            "words": dict(final.words),
            "remarks": list(final.remarks),
            "record": dict(final.record),
            "warnings": self.trainer.warned(),
        }
        return {
            "status": "finished",
            "reason": None,
            "best_epoch": state.best["epoch"],
            "validation": state.best["validation"],
            "test": test | last | dict(final.metrics),
            "test_losses": test_losses,
            "decisions": {name: count for name, count in counts.items() if count},
            "step_ms": statistics.median(state.step_ms),
            "seconds": state.seconds,
            "cosine_std": state.sigma(self.problem.loss_names, "training"),
            "cosine_std_first_epoch": state.sigma(self.problem.loss_names, "first_epoch"),
            "passed": _first_and_last(state.passed),
            "mean_weights": state.weights.means(),
            "measured_at": self.recorder.measured_at,
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
        return failure(status, reason, self.state, self.trainer.warned())


def _first_and_last(passed: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Means of the first and of the last epoch that has a record, and by how much they differ."""
    if not passed:
        return {}
    first, last = (
        statistics.fmean(share for epoch, share in passed if epoch == passed[end][0]) for end in (0, -1)
    )
    return {"first epoch": first, "last epoch": last, "change": last - first}


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
