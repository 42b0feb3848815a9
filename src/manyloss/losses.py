"""What a user passes to a step, checked once: the losses by name, the features, the shared parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.utils.rnn import PackedSequence

from manyloss import checks
from manyloss.cuts import CutFeatures
from manyloss.graph import Edge, Root, depends_on, edge_of

Losses = Mapping[str, Tensor | None] | Sequence[Tensor | None] | Tensor
Features = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | PackedSequence
SharedParams = nn.Module | Tensor | Iterable[Tensor]


@dataclass
class Given:
    """What the user passed, once it was checked.

    Attributes:
        names: of all losses, also of the absent.
        roots: where a backward starts; None for an absent loss.
        values: detached scalars; None for an absent loss.
        features: tensors [B, *F], each once.
        edges: where the features were made.
        params: shared parameters, each once.
        device: of the losses that are there; None if there is none.
        nested: features depend on each other, which only those that were cut may.

    """

    names: tuple[str, ...]
    roots: list[Root | None]
    values: list[Tensor | None]
    features: list[Tensor]
    edges: list[Edge]
    params: list[Tensor]
    device: torch.device | None = None
    nested: bool = False


def check(losses: Losses, features: Features | None, shared_params: SharedParams | None) -> Given:
    """Look at everything a user can get wrong, before anything is touched.

    Raises:
        TypeError, ValueError: something is not what a step can work with.
        RuntimeError: the step runs under ``torch.inference_mode()``.

    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "MultiLoss.backward runs under torch.inference_mode(), in which autograd records nothing and no "
            "gradient can be read: leave the mode before the forward."
        )
    names, roots, values = _named(losses)
    tensors = feature_tensors(features)
    params = parameters(shared_params)
    first = next((i for i, value in enumerate(values) if value is not None), None)
    device = None if first is None else values[first].device  # type: ignore[union-attr]
    if first is not None and device is not None:  # the losses lie on one device
        for place, there in (("features", tensors), ("shared_params", params)):
            for tensor in there:
                if tensor.device != device:
                    raise _other_device(names[first], device, place, tensor.device)
    edges = [edge_of(tensor) for tensor in tensors]
    nested = len(edges) > 1 and _depend(edges, may=isinstance(features, CutFeatures))
    return Given(names, roots, values, tensors, edges, params, device, nested)


# ---------------------------------------------------------------- losses


def _named(losses: Losses) -> tuple[tuple[str, ...], list[Root | None], list[Tensor | None]]:
    """Give every loss its name and check that it can be minimised."""
    if isinstance(losses, Tensor):
        return _unstack(losses)
    pairs = _pairs(losses)
    names: list[str] = []
    roots: list[Root | None] = []
    values: list[Tensor | None] = []
    first: Tensor | None = None
    for name, loss in pairs:
        if not isinstance(name, str):
            raise TypeError(f"The name of a loss must be a string, got {name!r} ({type(name).__name__}).")
        if name in names:
            raise ValueError(f"Two losses are named {name!r}: every loss needs a name of its own.")
        names.append(name)
        roots.append(loss)
        if loss is None:
            values.append(None)
            continue
        if not (
            isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point() and loss.requires_grad
        ):
            raise _not_a_loss(name, loss)
        values.append(loss.detach())
        if first is None:
            first, first_name = loss, name
        elif loss.device != first.device:
            raise _other_device(name, loss.device, f"loss {first_name!r}", first.device)
    if not names:
        raise no_losses()
    return tuple(names), roots, values


def losses_present(losses: Losses) -> list[Tensor]:
    """The losses that are there, of any of the kinds that a user may pass; nothing is checked."""
    if isinstance(losses, Tensor):
        return list(losses.unbind())
    return [loss for _, loss in _pairs(losses) if loss is not None]


def _pairs(losses: Any) -> list[tuple[Any, Any]]:
    if isinstance(losses, Mapping):
        return list(losses.items())
    if not isinstance(losses, Sequence) or isinstance(losses, (str, bytes)):
        raise _loss_kind(losses)
    return [
        item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)
        for i, item in enumerate(losses)
    ]


def _unstack(losses: Tensor) -> tuple[tuple[str, ...], list[Root | None], list[Tensor | None]]:
    """Single losses of a 1-D tensor, looking through the ``torch.stack`` that made it.

    Behind the stack each loss has a graph of its own, so one inf does not spoil the others' gradients.
    """
    if losses.dim() != 1:
        raise _loss_kind(losses)
    names = tuple(str(i) for i in range(len(losses)))
    if not names:
        raise no_losses()
    if not losses.requires_grad:
        raise _no_graph("0")
    node = losses.grad_fn
    if node is not None and node.name() == "StackBackward0" and len(node.next_functions) == len(names):
        roots: list[Root | None] = []
        for name, (behind, number) in zip(names, node.next_functions, strict=True):
            if behind is None:
                raise _no_graph(name)
            roots.append(GradientEdge(behind, number))
    else:
        with torch.enable_grad():
            roots = list(losses.unbind())
    return names, roots, list(losses.detach().unbind())


def _not_a_loss(name: str, loss: object) -> Exception:
    if not isinstance(loss, Tensor):
        return TypeError(f"Loss {name!r} must be a scalar tensor or None, got {type(loss).__name__}.")
    if loss.dim() != 0:
        return ValueError(
            f"Loss {name!r} must be a scalar, got shape {list(loss.shape)}: reduce it with .mean() or .sum()."
        )
    if not loss.is_floating_point():
        return TypeError(f"Loss {name!r} must be a floating-point scalar, got {loss.dtype}.")
    return _no_graph(name)


def no_losses() -> ValueError:
    """Nothing to do a backward of, on this process."""
    return ValueError("No losses: pass at least one scalar that is not None.")


def _loss_kind(losses: object) -> TypeError:
    return TypeError(
        "losses must be a mapping from name to scalar, a sequence of scalars or a 1-D tensor, "
        f"got {type(losses).__name__}"
        + (f" of shape {list(losses.shape)}." if isinstance(losses, Tensor) else ".")
    )


def _no_graph(name: str) -> ValueError:
    return ValueError(
        f"Loss {name!r} does not require grad: it was detached, made under torch.no_grad(), or all that it "
        "depends on is frozen. Pass None for a loss that is absent or has nothing to train in this step."
    )


def _other_device(name: str, device: torch.device, what: str, expected: torch.device) -> ValueError:
    return ValueError(f"Loss {name!r} is on {device}, the {what} on {expected}: move them to one device.")


def check_same_losses(expected: Sequence[str], received: Sequence[str]) -> None:
    """Refuse other names, or another order, than at the first call.

    Raises:
        ValueError: it names the difference.

    """
    if tuple(expected) == tuple(received):
        return
    missing = [name for name in expected if name not in received]
    unknown = [name for name in received if name not in expected]
    if missing or unknown:
        raise ValueError(
            f"The losses differ from those of the first call: missing {checks.listed(missing)}; "
            f"unknown {checks.listed(unknown)}. Pass None for a loss that is absent in this step, "
            "or use another MultiLoss for other losses."
        )
    raise ValueError(
        f"The losses come in another order than at the first call: expected {checks.listed(expected)}, "
        f"received {checks.listed(received)}. Keep the order of the first call."
    )


# ---------------------------------------------------------------- places


def feature_tensors(features: Features | None) -> list[Tensor]:
    """The features as a list of differentiable tensors, each once; empty when there are none."""
    if features is None:
        return []
    if isinstance(features, Tensor):
        given: list[Any] = [features]
    elif isinstance(features, PackedSequence):
        given = [features.data]
    elif isinstance(features, Mapping):
        given = list(features.values())
    else:
        given = [item.data if isinstance(item, PackedSequence) else item for item in features]
    if not given:
        raise ValueError("features is empty: pass at least one tensor, or None to leave it out.")
    tensors: list[Tensor] = []
    for i, tensor in enumerate(given):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "features must be a tensor, a sequence or a mapping of tensors, "
                f"item {i} is {type(tensor).__name__}."
            )
        if tensor.is_nested or tensor.layout != torch.strided:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise TypeError(
                f"features (item {i}) is a {kind} tensor: pass the dense tensor that it was made from "
                "(a padded batch, or .values() before it was wrapped)."
            )
        if not tensor.requires_grad:
            raise ValueError(
                f"features (item {i}, shape {list(tensor.shape)}) do not require grad: they were detached, "
                "made under torch.no_grad(), or come from a frozen encoder, so no gradient would reach it."
            )
        if not any(tensor is known for known in tensors):
            tensors.append(tensor)
    return tensors


def parameters(params: SharedParams | None) -> list[Tensor]:
    """The shared parameters as a list of leaves, each once; empty when there are none."""
    if params is None:
        return []
    if isinstance(params, nn.Module):
        given: list[Any] = [param for param in params.parameters() if param.requires_grad]
        if not given:
            raise ValueError(
                f"shared_params: {type(params).__name__} has no parameters that require grad; it is frozen, "
                "or holds none."
            )
    else:
        given = [params] if isinstance(params, Tensor) else list(params)
    if not given:
        if isinstance(params, Iterator):
            raise ValueError(
                "shared_params is an iterator with nothing left (module.parameters() can be read once): pass "
                "the module itself, or list(module.parameters())."
            )
        raise ValueError("shared_params is empty: pass at least one parameter, or None to leave it out.")
    tensors: dict[int, Tensor] = {}
    for i, param in enumerate(given):
        _check_parameter(i, param)
        tensors[id(param)] = param
    return list(tensors.values())


def _check_parameter(index: int, param: object) -> None:
    if not isinstance(param, Tensor):
        raise TypeError(
            f"shared_params must hold tensors, item {index} is {type(param).__name__}: "
            "pass a module or its parameters()."
        )
    if type(param).__name__ == "DTensor" or hasattr(param, "placements"):
        raise TypeError(
            f"shared_params item {index} is a DTensor (FSDP2): its gradient exists in shards only. "
            "Pass features= instead."
        )
    if not param.is_leaf:
        raise ValueError(
            f"shared_params item {index} (shape {list(param.shape)}) is not a leaf that requires grad: "
            "pass parameters of the encoder."
        )
    if not param.requires_grad:
        raise ValueError(
            f"shared_params item {index} (shape {list(param.shape)}) is frozen and not a leaf that requires "
            "grad: pass the module (its parameters that require grad are taken), or those alone."
        )


def _depend(edges: Sequence[Edge], *, may: bool) -> bool:
    """Whether some depend on others: gradients there would be counted twice, unless they were cut."""
    for i, edge in enumerate(edges):
        others = [other for j, other in enumerate(edges) if j != i]
        found = depends_on(edge, others)
        if found is not None and may:
            return True
        if found is not None:
            raise ValueError(
                f"features item {i} is computed from features item {found + (found >= i)}: gradients are "
                "aggregated where the encoder ends, so pass only tensors that do not depend on each other. "
                "Or let the forward cut each of them, z = multi.cut(z), and leave features out; or pass "
                "shared_params= without features."
            )
    return False
