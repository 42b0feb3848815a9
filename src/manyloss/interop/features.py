"""Outputs of inner modules, for models whose forward does not return the features."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from manyloss import checks
from manyloss.graph import depends_on, edge_of

Select = str | int | Callable[[Any], Any]


class FeaturesOf:
    """Keeps the outputs of modules, exactly the tensors that the heads used. ::

        encoded = FeaturesOf(model.encoder)
        outputs = model(inputs)
        multi.backward(losses, features=encoded.take())

    Every call since the last ``take`` counts, and every tensor of what a call returned: a tensor, or tensors
    in sequences, mappings, dataclasses and Hugging Face outputs. What carries no gradient is left out, and so
    are calls under ``torch.no_grad()`` and in evaluation mode.

    With Accelerate's mixed precision it is needed even where the model returns the features: what a prepared
    model returns are copies, which the heads did not use.

    Args:
        modules: of the model, inside of DDP and the like.
        select: what of an output is taken, where its tensors are computed from each other (hidden states): a
            name, an index, or a function of the output.
        in_eval: also take calls in evaluation mode (an encoder whose BatchNorm is frozen by ``eval()``).

    A deep copy of a model (an average of weights) collects nothing, unless this object is part of the model.

    """

    def __init__(self, *modules: nn.Module, select: Select | None = None, in_eval: bool = False) -> None:
        if not modules:
            raise ValueError("FeaturesOf needs a module: FeaturesOf(model.encoder).")
        for module in modules:
            checks.network("what FeaturesOf takes", module)
        self._name = f"FeaturesOf({', '.join(type(module).__name__ for module in modules)})"
        self._select = select
        self._in_eval = in_eval
        self._tensors: list[Tensor] = []
        self._left_out: set[str] = set()
        self._handles = [module.register_forward_hook(_Hook(self)) for module in modules]

    def keep(self, output: Any, training: bool) -> None:
        """Remember the output of one call."""
        if not (training or self._in_eval):
            self._left_out.add("in evaluation mode (FeaturesOf(..., in_eval=True) takes these)")
            return
        if self._select is not None:
            output = _selected(output, self._select, self._name)
        found = {path: tensor for path, tensor in _tensors_in(output) if tensor.requires_grad}
        if not found:
            self._left_out.add("without gradient (under torch.no_grad(), or of a frozen module)")
        self._refuse_dependent(found)
        for tensor in found.values():
            if not any(tensor is known for known in self._tensors):
                self._tensors.append(tensor)

    def take(self) -> Tensor | list[Tensor]:
        """The output since the last call of `take`, or a list of all; they are let go.

        Raises:
            RuntimeError: there was none.

        """
        tensors, self._tensors = self._tensors, []
        left_out, self._left_out = self._left_out, set()
        if not tensors:
            seen = f"only forwards {' and '.join(sorted(left_out))}" if left_out else "no forward"
            raise RuntimeError(
                f"{self._name} saw {seen} since the last take(): call the model first, and take() once per "
                "step."
            )
        return tensors[0] if len(tensors) == 1 else tensors

    def close(self) -> None:
        """Leave the modules."""
        for handle in self._handles:
            handle.remove()

    def _refuse_dependent(self, found: Mapping[str, Tensor]) -> None:
        """Gradients at tensors that are computed from each other would be counted twice."""
        paths = list(found)
        edges = [edge_of(tensor) for tensor in found.values()]
        for i, path in enumerate(paths):
            others = [edge for edge in edges if edge != edges[i]]
            at = depends_on(edges[i], others) if others else None
            if at is not None:
                source = paths[edges.index(others[at])]
                raise ValueError(
                    f"{self._name}: of the tensors {checks.listed(paths)} that a call returned, {path!r} is "
                    f"computed from {source!r}, so their gradients would be counted twice. Say which "
                    f"are the features with FeaturesOf(..., select={_example(source)}); for several, let "
                    "the model hand multi.cut(tensor) of each to its heads."
                )

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which belong to other forwards."""
        return {**self.__dict__, "_tensors": [], "_left_out": set()}


class _Hook:
    """A forward hook that holds nothing: a copied model's hook belongs to a copied owner, if there is one."""

    owner: Callable[[], FeaturesOf | None]

    def __init__(self, owner: FeaturesOf) -> None:
        self.owner = weakref.ref(owner)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        owner = self.owner()
        if owner is not None:
            owner.keep(output, module.training)

    def __getstate__(self) -> dict[str, Any]:
        return {"owner": self.owner()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.owner = (lambda: None) if state["owner"] is None else weakref.ref(state["owner"])


def _tensors_in(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in an output, with where it stands."""
    if isinstance(output, Tensor):
        yield path or "output", output
    elif isinstance(output, Mapping):
        for key, item in output.items():
            yield from _tensors_in(item, f"{path}.{key}" if path else str(key))
    elif isinstance(output, (tuple, list)):
        for number, item in enumerate(output):
            yield from _tensors_in(item, f"{path}[{number}]")
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            item = getattr(output, field.name)
            yield from _tensors_in(item, f"{path}.{field.name}" if path else field.name)


def _selected(output: Any, select: Select, name: str) -> Any:
    """What ``select`` means of an output."""
    if callable(select):
        return select(output)
    try:
        return getattr(output, select) if _is_attribute(output, select) else output[select]  # type: ignore[arg-type]
    except (KeyError, IndexError, TypeError) as error:
        there = [path for path, _ in _tensors_in(output)]
        raise ValueError(
            f"{name}: select={select!r} is nothing in the output, a {type(output).__name__} that holds "
            f"{checks.listed(there)}."
        ) from error


def _is_attribute(output: Any, select: str | int) -> bool:
    return isinstance(select, str) and not isinstance(output, Mapping) and hasattr(output, select)


def _example(path: str) -> str:
    """How to select what stands at a path."""
    if path.startswith("["):
        return path[1 : path.index("]")]
    return repr(path) if path.isidentifier() else "lambda output: ..."
