"""A TorchJD object inside a method of ours: its random draws, and its state as tensors."""

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
from manyloss.state import Method, State, tensor_to_text, text_to_tensor


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


class Adapter(Method):
    """What holds a TorchJD object: its state is inside that object."""

    held: Held
    learns = TorchJDState
    state: TorchJDState | None  # one that was loaded, until the next step
    _before: dict[str, dict[str, Any]] | None = None

    @property
    def label(self) -> str:
        """The name of the TorchJD class."""
        return self.held.name

    def begin(self, names: Sequence[str]) -> None:
        """Make the object ready for a step, and remember how it was."""
        self.take_over()
        self.held.check_present(self.names, names)
        self._before = self.held.parts()

    def take_over(self) -> None:
        """Put a state that was loaded into the object."""
        if self.state is not None:
            self.held.fill(self.state.parts)
            self.state = None

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


class Held:
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

    def refuse_result(self, names: Sequence[str], weights: Sequence[float], hint: str) -> NoReturn:
        """What went in was finite, the result is not."""
        numbers = ", ".join(f"{weight:g}" for weight in weights)
        got = f": weights {numbers} for {checks.listed(names)}" if weights else ""
        raise ValueError(f"TorchJD's {self.name} gave a result that is not finite{got}. {hint}")

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
        found = {name: {**vars(part), **part._buffers, **part._parameters} for name, part in self.stateful}
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
                if key in part._parameters:
                    part._parameters[key].data.copy_(value)  # type: ignore[union-attr]  # the optimiser's own
                    continue
                target = part._buffers if key in part._buffers else vars(part)
                target[key] = _copied(value)
            rebuild = getattr(part, "_init_optim_problem", None)
            if rebuild is not None and part.step:  # NashMTL makes its solver's problem in its first step
                rebuild()


_MACHINERY = frozenset(vars(nn.Module()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    kinds = (bool, int, float, str, Tensor, np.ndarray, torch.dtype, torch.device)
    return value is None or isinstance(value, kinds)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, (np.ndarray, list)) else value


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON; tensors and arrays go to ``tensors`` under a number."""
    if isinstance(value, Mapping):
        return {key: _packed(one, tensors) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_packed(one, tensors) for one in value]}
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
    if kind in ("tuple", "list"):
        items = [_unpacked(one, tensors) for one in inner]
        return tuple(items) if kind == "tuple" else items
    if kind == "dtype":
        return getattr(torch, inner)
    if kind == "device":
        return torch.device(inner)
    if kind in ("Tensor", "Parameter"):
        return tensors[inner].clone()
    if kind == "ndarray":
        return tensors[inner].numpy().copy()
    return {key: _unpacked(one, tensors) for key, one in value.items()}
