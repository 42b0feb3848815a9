"""A training script that the user already has, as a trial of a comparison. ::

    from manyloss import lab
    multi = lab.method()                      # equal weights when the script runs by itself
    torch.manual_seed(lab.seed(default=0))
    ...
    multi.backward(losses, features=z)
    lab.log({"val/accuracy": acc, "val/rmse": rmse}, epoch=epoch)

``manyloss compare train.py --metric val/accuracy:max --metric val/rmse:min -- --lr 3e-4`` runs it once per
method and seed. Under a launcher with several processes every rank may call all of these; rank 0 writes.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks
from manyloss.lab.optimizer import OptimizerSettings
from manyloss.lab.problem import Problem

if TYPE_CHECKING:
    from manyloss import MultiLoss

#: Names the file with the trial's spec, in the script's environment.
VARIABLE = "MANYLOSS_TRIAL"
#: Names the file that `manyloss diagnose` reads, in the script's environment.
RECORD = "MANYLOSS_RECORD"
VALIDATION = ("val", "valid", "validation", "dev", "eval")
TEST = "test"
#: After so many records, one step in twice as many is recorded.
RECORDS_AT_A_PACE = 50
_DIRECTIONS = {"max": True, "higher": True, "min": False, "lower": False}


# -- what a script calls ------------------------------------------------------------------------------------


def method(default: str = "equal", *, losses: Sequence[str] = ()) -> MultiLoss:
    """The MultiLoss of this trial; that of ``default`` when the script runs by itself.

    Args:
        default: a method as on the command line, such as ``"gradnorm:alpha=0.5"``.
        losses: their names, where a method needs them before the first step.

    Raises:
        LabError: an unknown method, or one that only a `Problem` can run.

    """
    from manyloss import MultiLoss
    from manyloss.lab.arms import ArmContext, choose_arm

    session = _session()
    problem = ScriptProblem(losses=tuple(losses))
    chosen = choose_arm(session.arm or default, problem)
    if not chosen.is_a_method_alone:
        raise checks.not_for_scripts(chosen.name)
    made = chosen.build(ArmContext(tuple(losses), session.seed or 0, problem=problem))
    if not isinstance(made, MultiLoss):
        raise checks.not_for_scripts(chosen.name)
    session.time_steps_of(made)
    if RECORD in os.environ:
        _record(made, Path(os.environ[RECORD]))
    return made


def seed(default: int = 0) -> int:
    """The seed of this trial; ``default`` when the script runs by itself."""
    found = _session().seed
    return default if found is None else found


def learning_rate(default: float) -> float:
    """The learning rate of this trial: ``default`` times the factor that is compared or searched.

    ``default`` is what the script would use by itself, and what it gets back when it runs by itself.
    """
    return default * _session().optimizer.lr_factor


def weight_decay(default: float = 0.0) -> float:
    """The weight decay of this trial: ``default``, unless another one is compared or searched."""
    found = _session().optimizer.weight_decay
    return default if found is None else found


def folder(default: str | Path = "checkpoints") -> Path:
    """A folder of this trial's own, made if need be; ``default`` when the script runs by itself.

    A script that keeps checkpoints here and goes on from them is resumed after a kill; any other starts
    again.
    """
    session = _session()
    found = Path(default) if session.folder is None else session.folder / "script"
    found.mkdir(parents=True, exist_ok=True)
    return found


def log(metrics: Mapping[str, Any], epoch: int | None = None, split: str | None = None) -> None:
    """Tell the lab what was measured; nothing happens when the script runs by itself.

    Args:
        metrics: name -> number or tensor of one element. ``"val/..."`` is validation, ``"test/..."`` the
            test.
        epoch: counted as the script does. When None, one further whenever a name comes again; a script that
            goes on from checkpoints has to give it.
        split: put in front of the names: ``split="val"`` makes ``"val/accuracy"`` of ``"accuracy"``.

    Raises:
        ValueError: a value is not one number.

    """
    values = {}
    for name, value in metrics.items():
        value = value.detach() if hasattr(value, "detach") else value
        try:
            values[name if split is None else f"{split}/{name}"] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"lab.log: {name!r} is a {type(value).__name__}, not one number. Reduce it first, or give "
                "each part a name."
            ) from error
    _session().log(values, epoch)


def metric(name: str, *, higher_is_better: bool | None = None, lower_is_better: bool | None = None) -> None:
    """Say in the script which direction of a metric is better, in place of ``--metric name:max``.

    `compare` reads it from the script's text: give the name and the direction as they are, not as variables.

    Raises:
        ValueError: not exactly one direction is given.

    """
    if (higher_is_better is None) == (lower_is_better is None):
        raise ValueError(
            f"lab.metric({name!r}): give higher_is_better=True or lower_is_better=True, and one of them only."
        )


# -- the running script's side ------------------------------------------------------------------------------


@dataclass
class _Session:
    """What this process is a trial of; all None when the script runs by itself."""

    arm: str | None = None
    seed: int | None = None
    folder: Path | None = None
    #: The last epoch, and the names logged in it.
    epoch: int | None = None
    named: set[str] = field(default_factory=set)
    #: When this process began: what an earlier one logged of the same epochs is undone.
    process: float = field(default_factory=time.time)
    steps: _StepTimes | None = None
    multi: MultiLoss | None = None

    @property
    def optimizer(self) -> OptimizerSettings:
        from manyloss.lab.arms import choose_arm

        if self.arm is None:
            return OptimizerSettings()
        return choose_arm(self.arm, ScriptProblem()).optimizer

    def time_steps_of(self, multi: MultiLoss) -> None:
        self.multi = multi
        if self.folder is not None and hasattr(multi, "observers"):
            self.steps = _StepTimes()
            multi.observers.append(self.steps)

    def log(self, values: Mapping[str, float], epoch: int | None) -> None:
        if epoch is None:
            again = self.epoch is None or bool(self.named & set(values))
            epoch = (self.epoch or 0) + again
        if epoch != self.epoch:
            self.epoch, self.named = int(epoch), set()
        self.named |= set(values)
        if self.folder is None or _rank() != 0:
            return
        from manyloss.lab.runs import storage

        record = {
            "epoch": int(epoch),
            "time": time.time(),
            "process": self.process,
            "metrics": dict(values),
        }
        if self.steps is not None:
            record["step_ms"] = self.steps.median()
        last = None if self.multi is None else self.multi.last
        if last is not None:
            record["losses"] = {name: float(value) for name, value in last.losses.items()}
        if self.multi is not None and self.multi.notices.given:
            record["warnings"] = [*self.multi.notices.given.values()]
        storage.append_lines(self.folder / "log.jsonl", [record])


class _StepTimes:
    """Looks at every step of a MultiLoss, measures nothing but the time between two."""

    MOST = 10_000

    def __init__(self) -> None:
        self.last: float | None = None
        self.times: list[float] = []

    def due(self) -> bool:
        now = time.perf_counter()
        if self.last is not None and len(self.times) < self.MOST:
            self.times.append(1000 * (now - self.last))
        self.last = now
        return False

    def before(self, losses: Any) -> None:
        """Not asked for."""

    def record(self, gradients: Any, features: Any) -> None:
        """Not asked for."""

    def median(self) -> float | None:
        return statistics.median(self.times) if self.times else None


@cache
def _session() -> _Session:
    path = os.environ.get(VARIABLE)
    if path is None:
        return _Session()
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    return _Session(spec["arm"], int(spec["seed"]), Path(path).parent)


def _rank() -> int:
    """Of this process: as torch knows it, or as launchers say it before torch does."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    names = ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
    return int(next((os.environ[name] for name in names if os.environ.get(name)), "0"))


def _record(multi: MultiLoss, path: Path) -> None:
    """Look at every step at first, then at fewer and fewer: how many there will be is the script's affair."""
    from manyloss.diagnostics import ConflictRecorder

    class Thinning(ConflictRecorder):
        def record(self, outcome: Any, features: Any) -> None:
            super().record(outcome, features)
            if len(self.records) % RECORDS_AT_A_PACE == 0:
                self.every *= 2

    # Every rank reads, as a step may have to be summed up over them; one writes.
    Thinning(multi, every=1, path=path if _rank() == 0 else None)


# -- the lab's side -----------------------------------------------------------------------------------------


class ScriptProblem(Problem):
    """What a study may know of a script: its metrics. The losses' names are known to the script only."""

    baseline = "equal"
    any_losses = True

    def __init__(
        self, name: str = "", metrics: Mapping[str, bool] | None = None, losses: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.directions = dict(metrics or {})
        self.losses = dict.fromkeys(losses, _no_loss)
        self.epochs = 1

    def metric_directions(self) -> dict[str, dict[str, Any]]:
        """As the user gave them, those that the table shows."""
        return {
            name: {"task": name, "higher_is_better": higher, "derived": False}
            for name, higher in shown_metrics(self.directions).items()
        }


def _no_loss(output: Any, target: Any) -> Any:
    raise NotImplementedError("The losses are the script's.")


@dataclass(frozen=True)
class ScriptCall:
    """How a script is run: what goes in front and behind, and what it measures (name -> higher is better)."""

    metrics: Mapping[str, bool]
    launch: str = ""
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, metrics: Sequence[str], launch: str, arguments: Sequence[str]) -> ScriptCall:
        """From the words of the command line: ``val/accuracy:max``."""
        directions = {}
        for text in metrics:
            name, _, direction = text.rpartition(":")
            if not name or direction not in _DIRECTIONS:
                raise checks.LabError(
                    f"--metric {text!r} is not understood. Give the name that lab.log uses, and which "
                    "direction is better: --metric val/accuracy:max or --metric val/rmse:min."
                )
            directions[name] = _DIRECTIONS[direction]
        return cls(directions, launch, tuple(arguments))

    def with_declared(self, texts: Iterable[str], file: str) -> ScriptCall:
        """Add the metrics that the script itself declares; an error if there are none at all."""
        declared = {name: higher for text in texts for name, higher in declared_metrics(text)}
        metrics = {**declared, **self.metrics}
        if not metrics:
            raise checks.LabError(
                f"{file} is a script: say what is to be compared, with --metric val/accuracy:max, or with "
                'lab.metric("val/accuracy", higher_is_better=True) in the script.'
            )
        return ScriptCall(metrics, self.launch, self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"metrics": dict(self.metrics), "launch": self.launch, "arguments": list(self.arguments)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScriptCall:
        """What `to_dict` gave."""
        return cls(dict(values["metrics"]), values["launch"], tuple(values["arguments"]))


def is_script(text: str) -> bool:
    """Whether this file asks for the lab's method itself."""
    return asks_for(text, "method")


def asks_for(text: str, name: str) -> bool:
    """Whether this script calls ``lab.NAME(...)``."""
    return any(True for _ in _calls(text, name))


def declared_metrics(text: str) -> Iterator[tuple[str, bool]]:
    """The names and directions in the script's calls of `metric`."""
    for call in _calls(text, "metric"):
        if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str):
            for word in call.keywords:
                if isinstance(word.value, ast.Constant) and isinstance(word.value.value, bool):
                    yield call.args[0].value, word.value.value == (word.arg == "higher_is_better")


def _calls(text: str, name: str) -> Iterator[ast.Call]:
    """Calls of ``lab.NAME(...)``."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
            owner = node.func.value
            if getattr(owner, "id", getattr(owner, "attr", None)) == "lab":
                yield node


def kind_of(name: str) -> str:
    """By what stands before the first slash: "validation", "test" or "other"."""
    first = name.partition("/")[0].lower()
    return "validation" if first in VALIDATION else "test" if first == TEST else "other"


def shown_metrics(metrics: Mapping[str, bool]) -> dict[str, bool]:
    """Those of the table: of the test, where there are such."""
    tested = {name: higher for name, higher in metrics.items() if kind_of(name) == "test"}
    return tested or dict(metrics)


def choosing_metrics(metrics: Mapping[str, bool]) -> dict[str, bool]:
    """Those that choose the epoch: of validation, where there are such."""
    found = {name: higher for name, higher in metrics.items() if kind_of(name) == "validation"}
    return found or dict(metrics)


def chosen_on_what_is_shown(metrics: Mapping[str, bool]) -> bool:
    """Whether the epoch is chosen on the very metrics that the table shows: their values are optimistic."""
    return bool(set(shown_metrics(metrics)) & set(choosing_metrics(metrics)))
