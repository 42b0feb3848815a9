"""TorchJD's aggregators and weightings (torchjd.org) in a manyloss step.

What depends on inner products alone, nearly all of them, runs on the Gramian [T, T]: no [T, P] matrix, any
number of ranks, gradients at features or at shared parameters. What looks at single entries (TrimmedMean,
TorchJD's GradDrop, ExcessMTL) gets the matrix: all features tensors flattened into one [T, B*F...].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from manyloss import checks
from manyloss.aggregation import Aggregator
from manyloss.gradients import LossGradients
from manyloss.state import Method, State, tensor_to_text, text_to_tensor
from manyloss.weighting import GradientWeighting

# Weightings of a matrix that look at its number of rows only.
_COUNTS_ROWS = ("MeanWeighting", "SumWeighting", "ConstantWeighting", "RandomWeighting")
# Methods of a matrix that turn with it: f(M Q) = f(M) Q, so the root of the Gramian stands for the matrix.
_TURNS_WITH_THE_MATRIX = ("_NashMTLWeighting", "ConFIG")
# Weightings of products of two independent batches' gradients; a step has one batch.
_TWO_BATCHES = ("SDMGradWeighting", "MoDoWeighting")
# Eigenvalues of the cosine matrix below this share of the largest are rounding.
_ROUNDING = 1e-13


def from_torchjd(method: Any, *, seed: int | None = None) -> TorchJDWeighting | TorchJDAggregator:
    """Let a TorchJD method run in a step: ``MultiLoss(from_torchjd(UPGrad()))``.

    The weighting's weights multiply what reaches the shared part; heads see the plain losses, as in
    ``mtl_backward``. With ``shared_params=`` the result is that of TorchJD's ``mtl_backward``; with
    ``features=`` the method works on the gradients at the features, which is far cheaper.

    Args:
        method: a TorchJD aggregator or weighting *object*. A weighting of a class of your own is taken to
            read the Gramian, as TorchJD's public base class says.
        seed: of the own generator that TorchJD's draws come from, so that ranks draw alike and checkpoints
            continue; drawn from torch's when None.

    Returns:
        a `TorchJDWeighting` (to be given as ``weighting=``) or a `TorchJDAggregator` (``aggregator=``). State
        of stateful methods travels in ``state_dict``.

    Raises:
        ImportError: TorchJD is not installed.
        TypeError: something else than an aggregator or weighting object.
        ValueError: the method needs the gradients of two batches (SDMGrad, MoDo).

    """
    try:
        from torchjd import aggregation as torchjd
    except ImportError as error:
        checks.not_installed("from_torchjd", "torchjd", "peers", error)
    if isinstance(method, type):
        name = method.__name__
        raise TypeError(
            f"from_torchjd needs an aggregator or weighting of TorchJD, got the class {name}: write "
            f"from_torchjd({name}(...))."
        )
    if isinstance(method, torchjd.GramianWeightedAggregator):
        return TorchJDWeighting(method.gramian_weighting, type(method).__name__, seed=seed)
    if not isinstance(method, (torchjd.Aggregator, torchjd.Weighting)):
        raise TypeError(
            "from_torchjd needs an aggregator or weighting of TorchJD, got an object of type "
            f"{type(method).__name__}: such as UPGrad()."
        )
    name = type(method).__name__
    core = method.weighting if isinstance(method, torchjd.WeightedAggregator) else method
    reads = _reads(core)
    if reads == "two batches":
        raise ValueError(
            f"{name} reads products of the gradients of two independent batches, and a step has one batch: "
            "call it by hand as its own documentation shows, or use MGDA."
        )
    if reads == "matrix":
        if isinstance(method, torchjd.Weighting):
            method = torchjd.WeightedAggregator(method)
        return TorchJDAggregator(method, name, seed=seed)
    return TorchJDWeighting(core, name, root=reads == "root", seed=seed)


def _reads(core: nn.Module) -> str:
    """What a method looks at: "gramian", "root" (of the Gramian), "matrix" or "two batches"."""
    from torchjd import aggregation as torchjd
    from torchjd.aggregation._weighting_bases import _MatrixWeighting

    names = {cls.__name__ for cls in type(core).__mro__}
    if names & {"CRMOGMWeighting"}:
        return _reads(core.weighting)  # type: ignore[arg-type]
    if names & set(_TWO_BATCHES):
        return "two batches"
    if names & set(_TURNS_WITH_THE_MATRIX):
        return "root"
    if names & set(_COUNTS_ROWS):
        return "gramian"
    if isinstance(core, (_MatrixWeighting, torchjd.Aggregator)):
        return "matrix"
    return "gramian"


@dataclass
class TorchJDState(State):
    """Attributes and buffers of the parts that learn: name of the part -> its attributes."""

    parts: dict[str, dict[str, Any]]

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by number, and one text that says where they and all other values belong."""
        found: dict[str, Tensor] = {}
        text = json.dumps({name: _packed(part, found) for name, part in self.parts.items()})
        return {"parts": text_to_tensor(text), **found}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> TorchJDState:
        """What :meth:`tensors` described."""
        packed = json.loads(tensor_to_text(tensors["parts"]))
        return cls({name: _unpacked(part, tensors) for name, part in packed.items()})


class _Adapter(Method):
    """What holds a TorchJD object: its state is inside that object."""

    held: _Held
    learns = TorchJDState
    state: TorchJDState | None  # one that was loaded, until the next step
    _before: dict[str, dict[str, Any]] | None = None

    @property
    def label(self) -> str:
        """The name of the TorchJD class."""
        return self.held.name

    def begin(self, names: Sequence[str]) -> None:
        """Make the object ready for a step, and remember how it was."""
        if self.state is not None:
            self.held.fill(self.state.parts)
            self.state = None
        self.held.check_present(self.names, names)
        self._before = self.held.parts()

    def commit(self) -> None:
        """The object has learned."""
        self._before = None

    def discard(self) -> None:
        """Put the object back."""
        if self._before is not None:
            self.held.fill(self._before)
            self._before = None

    def reset(self) -> None:
        """Put the object back to its start."""
        super().reset()
        for _, part in self.held.stateful:
            part.reset()  # type: ignore[operator]

    def state_tensors(self) -> dict[str, Tensor]:
        """The object's state, or the one that waits for it."""
        return (self.state or TorchJDState(self.held.parts())).tensors()

    def extra_repr(self) -> str:
        """The method."""
        return self.held.name


class TorchJDWeighting(_Adapter, GradientWeighting):
    """A TorchJD method that inner products decide; made by `from_torchjd`.

    Args:
        method: a weighting, or an aggregator that turns with its matrix.
        name: for messages.
        root: hand it R [T, T] with R R^T = Gramian in place of the Gramian.
        seed: of the own generator.

    """

    def __init__(self, method: nn.Module, name: str, *, root: bool = False, seed: int | None = None) -> None:
        super().__init__()
        self.held = _Held(method, name)
        self.root = root
        self.seed_with(seed)

    def forward(self, gradients: LossGradients) -> Tensor:
        """The method's weights, or its result's coordinates in the gradients. [T]

        Raises:
            ValueError: a loss is absent and the method keeps state, or the weights are not finite.

        """
        self.begin(gradients.names)
        lengths = gradients.norms
        directions = _directions(gradients.cosines) if self.root else None
        given = gradients.gramian if directions is None else lengths[:, None] * directions
        generator = self.generator
        assert generator is not None
        with self.held.drawing_from(generator, given.device):
            result: Tensor = self.held.module(given).detach().double().cpu()
        if directions is not None and not self.held.gives_weights:
            scaled = torch.linalg.lstsq(directions.T, result[:, None], driver="gelsd").solution[:, 0]
            result = torch.where(lengths > 0, scaled / lengths, torch.zeros_like(scaled))
        if not bool(torch.isfinite(result).all()):
            self.held.refuse_result(gradients.names, result.tolist())
        return result


class TorchJDAggregator(_Adapter, Aggregator):
    """A TorchJD aggregator that looks at single entries of the matrix; made by `from_torchjd`.

    At features the matrix is this rank's batch, so it is refused on more than one rank there.
    """

    def __init__(self, method: nn.Module, name: str, *, seed: int | None = None) -> None:
        super().__init__()
        self.held = _Held(method, name)
        self.seed_with(seed)

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at all tensors jointly.

        Raises:
            ValueError: more than one rank at features, or a loss is absent and the method keeps state.

        """
        if features[0] is not None and self.ranks.world > 1:
            raise ValueError(
                f"TorchJD's {self.held.name} reads the whole matrix of gradients, whose columns at the "
                f"features are spread over {self.ranks.world} ranks: pass shared_params= without features, "
                "where gradients are averaged, or use a method that reads the Gramian."
            )
        self.begin(names)
        matrix = torch.cat([tensor.detach().flatten(1) for tensor in gradients], dim=1)  # [T, B*F...]
        generator = self.generator
        assert generator is not None
        with self.held.drawing_from(generator, matrix.device):
            merged: Tensor = self.held.module(matrix).detach()
        if not bool(torch.isfinite(merged).all()):
            self.held.refuse_result(names)
        parts = torch.split(merged, [tensor[0].numel() for tensor in gradients])
        return [part.view(tensor.shape[1:]) for part, tensor in zip(parts, gradients, strict=True)]

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """[T, ...] -> [...]"""
        return self.aggregate([gradients], [features], names)[0]


def _directions(cosines: Tensor) -> Tensor:
    """D [T, T] with D D^T = the cosines; from these, and not the Gramian, so that short rows keep theirs."""
    values, vectors = torch.linalg.eigh(cosines)
    alive = values > _ROUNDING * len(values) * values.max()
    directions: Tensor = vectors * torch.where(alive, values, torch.zeros_like(values)).sqrt()
    return directions


class _Held:
    """A TorchJD object, out of sight of nn.Module: its None buffers do not survive a state_dict."""

    def __init__(self, module: nn.Module, name: str) -> None:
        from torchjd.aggregation import Weighting

        self.module = module
        self.name = name
        self.gives_weights = isinstance(module, Weighting)

    @property
    def stateful(self) -> list[tuple[str, nn.Module]]:
        """Its parts that learn from step to step."""
        from torchjd._mixins import Stateful

        return [(name, part) for name, part in self.module.named_modules() if isinstance(part, Stateful)]

    def check_present(self, expected: Sequence[str] | None, names: Sequence[str]) -> None:
        """What keeps state per loss cannot leave one out."""
        absent = [name for name in expected or () if name not in names]
        if absent and self.stateful:
            raise ValueError(
                f"TorchJD's {self.name} keeps state for a fixed number of losses, and "
                f"{checks.listed(absent)} {'is' if len(absent) == 1 else 'are'} absent in this step: use a "
                "method without state, or give every loss in every step."
            )

    def refuse_result(self, names: Sequence[str], weights: Sequence[float] = ()) -> NoReturn:
        """The gradients were finite, the result is not."""
        numbers = ", ".join(f"{weight:g}" for weight in weights)
        got = f": weights {numbers} for {checks.listed(names)}" if weights else ""
        raise ValueError(
            f"TorchJD's {self.name} gave a result that is not finite{got}. A zero gradient or repeated ones "
            "may be outside of what it can do: look at result.cosines with measure=True."
        )

    @contextmanager
    def drawing_from(self, generator: torch.Generator, device: torch.device) -> Iterator[None]:
        """TorchJD draws from torch's global generator: for this call, seed it from the own one."""
        devices = [device] if device.type == "cuda" else []
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield

    def parts(self) -> dict[str, dict[str, Any]]:
        """Copies of the plain attributes and buffers of the stateful parts."""
        found = {name: {**vars(part), **part._buffers} for name, part in self.stateful}
        return {
            name: {
                key: _copied(value)
                for key, value in part.items()
                if key not in _MACHINERY and _is_plain(value)
            }
            for name, part in found.items()
        }

    def fill(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Put into the object what :meth:`parts` gave."""
        for name, part in self.stateful:
            for key, value in parts[name].items():
                target = part._buffers if key in part._buffers else vars(part)
                target[key] = _copied(value)
            rebuild = getattr(part, "_init_optim_problem", None)
            if rebuild is not None and part.step:  # NashMTL makes its solver's problem in its first step
                rebuild()


_MACHINERY = frozenset(vars(nn.Module()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    kinds = (bool, int, float, str, Tensor, np.ndarray, torch.dtype, torch.device)
    return value is None or isinstance(value, kinds)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON; tensors and arrays go to ``tensors`` under a number."""
    if isinstance(value, Mapping):
        return {key: _packed(one, tensors) for key, one in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [_packed(one, tensors) for one in value]}
    if isinstance(value, (torch.dtype, torch.device)):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if isinstance(value, (Tensor, np.ndarray)):
        number = str(len(tensors))
        tensors[number] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        return {type(value).__name__: number}
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, Mapping):
        return value
    kind, inner = next(iter(value.items()), ("", "")) if len(value) == 1 else ("", "")
    if kind == "tuple":
        return tuple(_unpacked(one, tensors) for one in inner)
    if kind == "dtype":
        return getattr(torch, inner)
    if kind == "device":
        return torch.device(inner)
    if kind in ("Tensor", "Parameter"):
        return tensors[inner].clone()
    if kind == "ndarray":
        return tensors[inner].numpy().copy()
    return {key: _unpacked(one, tensors) for key, one in value.items()}
