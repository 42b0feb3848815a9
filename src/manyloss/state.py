"""What every method has in common: typed state, saved as tensors, reloaded and continued bit by bit."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manyloss import checks
from manyloss.distributed import ALONE, Ranks
from manyloss.errors import CheckpointError
from manyloss.plan import Needs
from manyloss.schedule import check_progress, learning_rate_multiplier

OptimizerFactory = Callable[[list[Tensor]], Optimizer]
Accepts = Literal["any", "0 and more", "above 0", "first above 0"]

_CPU = torch.device("cpu")


# ---------------------------------------------------------------- text and numbers as tensors


def text_to_tensor(text: str) -> Tensor:
    """UTF-8 bytes as float32 [bytes]: a clone, a cast or an average of two equal texts is that text."""
    return torch.tensor(list(text.encode()), dtype=torch.float32, device=_CPU)


def tensor_to_text(tensor: Tensor) -> str:
    """What :func:`text_to_tensor` was given.

    Raises:
        CheckpointError: the tensor holds no text, such as an average of two texts.

    """
    try:
        return bytes(round(code) for code in tensor.tolist()).decode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "The checkpoint holds a text (the name of a method, or those of the losses) that cannot be read: "
            "it was changed after it was saved. An average of checkpoints takes such entries from one of "
            "them."
        ) from error


@dataclass
class State:
    """What a method learns, or fixes at its first step.

    Every field is a number, a list of numbers (one per loss, of *all* losses), or a tensor on the CPU. A few
    numbers are best kept as a list: Python's arithmetic is faster than a torch operation on so little.
    """

    def tensors(self) -> dict[str, Tensor]:
        """Every field as a tensor of its own, numbers as 0-d ones: what a checkpoint holds."""
        return {field.name: _as_tensor(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The state that :meth:`tensors` described.

        Raises:
            CheckpointError: a field is missing.

        """
        require_entries([field.name for field in fields(cls)], tensors, cls.__name__)
        return cls(**{field.name: _as_field(tensors[field.name], str(field.type)) for field in fields(cls)})


def require_entries(names: Sequence[str], tensors: Mapping[str, Tensor], owner: str) -> None:
    """All of these are in a saved state.

    Raises:
        CheckpointError: some are not.

    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(
            f"The checkpoint lacks {', '.join(missing)} of {owner}: it was written by another version of "
            "this method, so start it anew."
        )


def _as_tensor(value: Tensor | float | list[Any]) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()
    dtype = {bool: torch.bool, int: torch.int64}.get(type(value), torch.float64)
    return torch.tensor(value, dtype=dtype, device=_CPU)


def _as_field(tensor: Tensor, kind: str) -> Any:
    if kind in ("bool", "int", "float"):
        number = tensor.item()
        return bool(number) if kind == "bool" else round(number) if kind == "int" else float(number)
    if kind.startswith("list"):
        return tensor.double().tolist()
    return tensor.detach().to(_CPU, torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)


# ---------------------------------------------------------------- the optimiser of what is learned


class InnerOptimizer:
    """The optimiser that a method owns for what it learns (loss weights, log-variances, gammas).

    Args:
        lr: learning rate of plain Adam, used when ``optimizer`` is None.
        optimizer: parameters -> Optimizer, for anything else.

    The learning rate follows the main schedule once :meth:`follow` is called with the fraction of the
    training that is done: lr * (1 - fraction)^0.9 (GREAT, supplement). Its settings are those of the
    constructor; a checkpoint holds its moments.

    """

    def __init__(self, lr: float, optimizer: OptimizerFactory | None = None) -> None:
        checks.positive("lr", lr)
        if optimizer is not None:
            checks.function("optimizer", optimizer, "lambda parameters: torch.optim.SGD(parameters, lr=0.1)")
        self.lr = lr
        self.factory = optimizer
        self.fraction = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget all moments."""
        self.optimizer: Optimizer | None = None
        self.moments: _Moments | None = None
        self._numbers: list[Tensor] = []  # what an optimizer of torch moves in place of plain numbers
        self._saved: dict[str, Tensor] = {}

    def follow(self, fraction: float) -> None:
        """Let the learning rate follow the main schedule."""
        self.fraction = fraction

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Move ``parameters`` once; a parameter whose gradient is None keeps its value and its moments."""
        if self.optimizer is None:
            self._build(list(parameters))
        optimizer = cast(Optimizer, self.optimizer)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        multiplier = learning_rate_multiplier(self.fraction)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        try:
            with torch.enable_grad():
                optimizer.step()
        finally:
            for parameter in parameters:
                parameter.grad = None

    def step_each(self, numbers: list[float], slopes: Sequence[float], moving: Sequence[int]) -> None:
        """Move single numbers in place; each keeps moments and a count of steps of its own.

        Args:
            numbers: one per loss, of all losses.
            slopes: one slope per number that moves.
            moving: the positions of these; the others keep their values and their moments.

        """
        if self.factory is None:
            if self.moments is None:
                self.moments = _Moments.zeros(len(numbers))
            lr = self.lr * learning_rate_multiplier(self.fraction)
            for i, slope in zip(moving, slopes, strict=True):
                numbers[i] -= self.moments.adam(i, slope, lr)
            return
        if not self._numbers:
            self._numbers = [torch.tensor(n, dtype=torch.float64, device=_CPU) for n in numbers]
        given = dict(zip(moving, slopes, strict=True))
        for own, number in zip(self._numbers, numbers, strict=True):
            own.fill_(number)
        gradients = [
            torch.tensor(given[i], dtype=torch.float64, device=_CPU) if i in given else None
            for i in range(len(numbers))
        ]
        self.step(self._numbers, gradients)
        numbers[:] = [own.item() for own in self._numbers]

    def _build(self, parameters: list[Tensor]) -> None:
        make = self.factory or (lambda params: torch.optim.Adam(params, lr=self.lr))
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        if self._saved:
            state: dict[int, dict[str, Any]] = {}
            for key, tensor in self._saved.items():
                number, _, entry = key.partition(".")
                name, _, kind = entry.partition(":")
                state.setdefault(int(number), {})[name] = _from_entry(tensor, kind)
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
            self._saved = {}
        self.optimizer = optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides the next step, as flat tensors."""
        found = {"progress": _as_tensor(self.fraction)}
        if self.moments is not None:
            found |= {f"each.{name}": tensor for name, tensor in self.moments.tensors().items()}
        if self.optimizer is None:
            return found | {key: tensor.clone() for key, tensor in self._saved.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                key = f"{number}.{name}" if isinstance(value, Tensor) else f"{number}.{name}:{_kind(value)}"
                found[key] = _as_tensor(0.0 if value is None else value)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave; the optimiser itself is made anew at the next step."""
        self.reset()
        self.fraction = float(tensors["progress"])
        each = {key[5:]: tensor for key, tensor in tensors.items() if key.startswith("each.")}
        self.moments = _Moments.of(each) if each else None
        self._saved = {key: tensor.clone() for key, tensor in tensors.items() if key[0].isdigit()}


@dataclass
class _Moments(State):
    """Adam's moments of single numbers (Kingma and Ba 2015, Algorithm 1, with its default settings)."""

    steps: list[float]
    mean: list[float]
    square: list[float]

    @classmethod
    def zeros(cls, count: int) -> _Moments:
        return cls([0.0] * count, [0.0] * count, [0.0] * count)

    def adam(self, i: int, slope: float, lr: float) -> float:
        """How far number ``i`` goes down."""
        self.steps[i] += 1.0
        self.mean[i] += 0.1 * (slope - self.mean[i])
        self.square[i] += 0.001 * (slope * slope - self.square[i])
        mean = self.mean[i] / (1.0 - 0.9 ** self.steps[i])
        square = self.square[i] / (1.0 - 0.999 ** self.steps[i])
        return float(lr * mean / (math.sqrt(square) + 1e-8))


def _kind(value: object) -> str:
    if value is None or type(value) in (bool, int, float):
        return type(value).__name__
    raise TypeError(
        f"The state of the optimizer given as optimizer= holds a {type(value).__name__}, and a checkpoint "
        "holds tensors and plain numbers only: use another optimizer, such as torch.optim.Adam or SGD."
    )


def _from_entry(tensor: Tensor, kind: str) -> Any:
    if kind == "NoneType":
        return None
    return _as_field(tensor, kind) if kind else tensor.clone()


def _laid_out_as(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """The gradient with the parameter's strides: a fused optimiser reads both memories side by side."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


# ---------------------------------------------------------------- methods


@dataclass(frozen=True)
class _Saved:
    """What a checkpoint holds for one method, read and checked."""

    names: tuple[str, ...] | None
    state: State | None
    generator: Tensor | None
    inner: dict[str, Tensor]


class Method(nn.Module):
    """Base of every weighting, aggregator and penalty.

    What a method says about itself: ``name`` (as on the command line), ``needs`` (what a step has to give
    it), ``learns`` (the dataclass of its state; None: it learns nothing), ``accepts`` (which values of a loss
    it can work with), ``search`` (values worth trying per option), ``per_loss`` (the setting that text gives
    loss by loss, as in ``static:left=0.7``) and ``scale`` (of what reaches the shared part: the "sum" of the
    gradients, their "mean", a "convex combination", or "free", where a weight may become anything).

    Its settings are checked when it is made: one of another kind is a TypeError, one with a value that it
    cannot have a ValueError, and both name it (`manyloss.checks` has the usual ones).

    Its life, as :class:`MultiLoss` leads it::

        start(names)            once, before the first step; ``first_state`` makes ``state``
        check(names, values)    in every step in which values are known, before anything is touched
        ...                     the family's own methods, which change nothing learned
        learn(...)              after a step that was written (weightings and penalties)
        commit()                then: ``pending``, what the step computed, becomes ``state``
        discard()               in place of both, when the step was skipped or failed
        reset()                 in place of all, when that was the first step

    Random numbers come from ``generator`` (on the CPU); MultiLoss puts it back when a step is skipped or
    fails. Names, ``state``, generator and the moments of ``inner`` are saved in ``state_dict`` as flat
    tensors, so that a fresh object continues bit by bit. ``parameters()`` stays empty: nothing here is for
    the user's optimiser.
    """

    family: ClassVar[str] = "method"
    name: ClassVar[str] = "method"
    needs: Needs = Needs()
    """What a step has to give this method; set in ``__init__`` where it depends on settings."""
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    learns: ClassVar[type[State] | None] = None
    accepts: Accepts = "any"
    per_loss: ClassVar[str | None] = None
    scale: ClassVar[Literal["sum", "mean", "convex combination", "free"]] = "sum"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):  # UnitNorm -> unit-norm
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] | None = None
        self.state: State | None = None
        self.pending: State | None = None
        self.generator: torch.Generator | None = None
        self.inner: InnerOptimizer | None = None
        self.ranks: Ranks = ALONE

    @property
    def label(self) -> str:
        """What messages and checkpoints call it."""
        return type(self).__name__

    def seed_with(self, seed: int | None) -> None:
        """Own a generator; without a seed one is drawn from torch's global generator."""
        if seed is None:
            seed = int(torch.randint(2**62, (), device=_CPU).item())
        self.generator = torch.Generator(device=_CPU).manual_seed(checks.seed(seed))

    # ------------------------------------------------------------------ life

    def start(self, names: Sequence[str]) -> None:
        """Fit the method to all the losses, once, before the first step.

        Raises:
            ValueError: a setting names or counts other losses; nothing was changed.

        """
        self.state = self.first_state(tuple(names))
        self.names = tuple(names)

    def first_state(self, names: tuple[str, ...]) -> State | None:
        """Check the settings against the names of all losses, and make the state before the first step."""
        return None

    def check(self, names: Sequence[str], values: Tensor) -> None:
        """Refuse losses that the method cannot work with (``accepts``), before anything is touched.

        Args:
            names: the losses present.
            values: [T] their values, float64, CPU.

        Raises:
            ValueError: a loss has a value that makes no sense here.

        """
        if self.accepts == "any":
            return
        for name, value in zip(names, values.tolist(), strict=True):
            if self.accepts == "above 0":
                checks.positive_loss(self.label, name, value)
            elif self.accepts == "0 and more" and value < 0.0:
                raise ValueError(
                    f"{self.label}: the value of loss {name!r} is {value:g}, but the method needs losses of "
                    "0 and more: add a constant to the loss, which leaves its gradient as it is."
                )

    def commit(self) -> None:
        """Take over what the step left in ``pending``: it was written."""
        if self.pending is not None:
            self.state, self.pending = self.pending, None

    def discard(self) -> None:
        """Drop what the step left in ``pending``: it was skipped or failed."""
        self.pending = None

    def reset(self) -> None:
        """Go back to before :meth:`start`."""
        self.names = self.state = None
        self.discard()
        if self.inner is not None:
            self.inner.reset()

    def set_progress(self, fraction: float) -> None:
        """Tell which fraction of the training is done, in [0, 1]; 0 until it is called."""
        check_progress(fraction)
        if self.inner is not None:
            self.inner.follow(fraction)

    def end_epoch(self) -> None:
        """Tell that an epoch is over, for methods that use epoch means."""

    def positions(self, names: Sequence[str]) -> Sequence[int]:
        """Where these losses lie among all, in the lists and tensors of ``state``."""
        known = self.names or ()
        if len(names) == len(known):
            return range(len(known))
        return [known.index(name) for name in names]

    # ------------------------------------------------------------------ saving

    def state_tensors(self) -> dict[str, Tensor]:
        """``state`` as flat tensors."""
        return {} if self.state is None else self.state.tensors()

    def read_state(self, tensors: Mapping[str, Tensor]) -> State | None:
        """The state that :meth:`state_tensors` described; changes nothing."""
        return None if self.learns is None else self.learns.of(tensors)

    def check_saved(self, state_dict: Mapping[str, Any], prefix: str = "") -> None:
        """Refuse a saved state that does not fit, so that several methods can be loaded all or none.

        Args:
            state_dict: that is to be loaded.
            prefix: of this method's entries in it.

        Raises:
            CheckpointError: it is another method's, or was written by an older version.

        """
        self._read(state_dict, prefix)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        own = {"method": text_to_tensor(self.label)}
        if self.names is not None:
            own["losses"] = text_to_tensor(json.dumps(self.names))
            own |= {f"state.{key}": tensor for key, tensor in self.state_tensors().items()}
        if self.generator is not None:
            own["generator"] = _signed(self.generator.get_state())
        if self.inner is not None:
            own |= {f"inner.{key}": tensor for key, tensor in self.inner.tensors().items()}
        destination |= {prefix + key: tensor for key, tensor in own.items()}

    def _read(self, state_dict: Mapping[str, Any], prefix: str) -> _Saved | None:
        own = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if "_extra_state" in own:
            raise CheckpointError(
                f"The checkpoint holds the state of {self.label} as bytes, as manyloss did before it saved "
                "tensors: go on with the version that wrote it, or leave the entries named '..._extra_state' "
                "out and load with strict=False, which starts the methods anew."
            )
        if "method" not in own:
            return None
        saved = tensor_to_text(own["method"])
        if saved != self.label:
            raise CheckpointError(
                f"The checkpoint holds the state of {saved}, this object is {self.label}: build the same "
                "MultiLoss as the one that was saved."
            )
        parts: dict[str, dict[str, Tensor]] = {"state": {}, "inner": {}}
        for key, tensor in own.items():
            part, dot, rest = key.partition(".")
            if dot and part in parts:
                parts[part][rest] = tensor
        started = "losses" in own
        return _Saved(
            tuple(json.loads(tensor_to_text(own["losses"]))) if started else None,
            self.read_state(parts["state"]) if started else None,
            _verified(own["generator"], self.label) if "generator" in own else None,
            parts["inner"],
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = self._read(state_dict, prefix)
        mine = re.compile(re.escape(prefix) + r"(method|losses|generator|(state|inner)\..*)")
        others = {key: value for key, value in state_dict.items() if not mine.fullmatch(key)}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if saved is None:
            missing_keys.append(prefix + "method")
            return
        self.reset()
        self.names, self.state = saved.names, saved.state
        if self.generator is not None and saved.generator is not None:
            self.generator.set_state(saved.generator)
        if self.inner is not None and saved.inner:
            self.inner.load(saved.inner)


def _signed(state: Tensor) -> Tensor:
    """The bytes of a generator's state and their checksum: averaged or truncated bytes are no state."""
    check = zlib.crc32(state.numpy().tobytes()).to_bytes(4, "little")
    return torch.cat([state, torch.tensor(list(check), dtype=torch.uint8, device=_CPU)])


def _verified(signed: Tensor, owner: str) -> Tensor:
    state = signed.detach().to(_CPU)
    if state.dtype == torch.uint8 and torch.equal(_signed(state[:-4]), state):
        return state[:-4].clone()
    raise CheckpointError(
        f"The checkpoint's random generator of {owner} was changed after it was saved, by an average or a "
        "cast: entries that are not floating point have to be copied as they are."
    )
