"""Checks that several places share: each raises, with what was received and what to do about it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn


def listed(names: Iterable[str]) -> str:
    """Names as they stand in an error."""
    return ", ".join(repr(name) for name in names) or "none"


# ---------------------------------------------------------------- settings


def number(setting: str, value: Any) -> float:
    """``setting`` has to be a number, as a float; a text that says one is none, and neither is True."""
    if not isinstance(value, str | bytes | bool | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"{setting} must be a number, got {'the text ' * isinstance(value, str)}{value!r}.")


def finite(setting: str, value: Any) -> None:
    """``setting`` has to be a finite number."""
    if not math.isfinite(number(setting, value)):
        raise ValueError(f"{setting} must be a finite number, got {value!r}.")


def positive(setting: str, value: Any) -> None:
    """``setting`` has to be a finite number above 0."""
    if not 0 < number(setting, value) < math.inf:
        raise ValueError(f"{setting} must be a finite number above 0, got {value!r}.")


def not_negative(setting: str, value: Any) -> None:
    """``setting`` has to be a finite number, at least 0."""
    if not 0 <= number(setting, value) < math.inf:
        raise ValueError(f"{setting} must be a finite number, 0 or more, got {value!r}.")


def one_of(setting: str, value: object, choices: Sequence[object]) -> None:
    """``setting`` has to be one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{setting} must be one of {', '.join(map(repr, choices))}; received {value!r}.")


def within(setting: str, value: Any, low: float, high: float) -> None:
    """``setting`` has to be a number in [low, high]."""
    if not low <= number(setting, value) <= high:
        raise ValueError(f"{setting} must be in [{low:g}, {high:g}]; received {value}.")


def whole(setting: str, value: Any, minimum: int) -> None:
    """``setting`` has to be a whole number that is not below ``minimum``."""
    try:
        known = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        known = None
    if known is None:
        raise TypeError(f"{setting} must be a whole number, got {value!r}.")
    if known < minimum:
        raise ValueError(f"{setting} must be at least {minimum}; received {value}.")


def seed(value: Any) -> int:
    """``seed`` has to be a whole number that a torch.Generator takes."""
    whole("seed", value, -(2**63))
    if value >= 2**64:
        raise ValueError(f"seed must be below 2**64; received {value}.")
    return int(value)


def flag(setting: str, value: object) -> None:
    """``setting`` has to be True or False; a text is none of them."""
    if not isinstance(value, bool):
        raise TypeError(f"{setting} must be True or False, got {value!r}.")


def name_of_a_loss(setting: str, value: object) -> None:
    """``setting`` has to be a name, or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{setting} must be the name of a loss, or None, got {value!r}.")


def function(setting: str, value: object, example: str) -> None:
    """``setting`` has to be something that is called."""
    if not callable(value):
        raise TypeError(f"{setting} must be a function such as {example}, got {value!r}.")


def network(setting: str, value: object) -> None:
    """``setting`` has to be a network, not its class."""
    if not isinstance(value, nn.Module):
        way_out = f" Make one: {value.__name__}(...)." if isinstance(value, type) else ""
        raise TypeError(f"{setting} must be a torch.nn.Module, got {value!r}.{way_out}")


def pair(setting: str, value: Any, example: str) -> tuple[Any, Any]:
    """``setting`` has to be two values."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{setting} must be two values such as {example}, got {value!r}.")
    return value[0], value[1]


def instance_of(setting: str, value: object, kind: type, example: str) -> None:
    """``setting`` has to be an object of a family, not its class and not a list."""
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(
            f"{setting} got the class {value.__name__}, not an object: write {value.__name__}(...)."
        )
    if not isinstance(value, kind):
        raise TypeError(
            f"{setting} must be a manyloss {kind.__name__} such as {example}, got {type(value).__name__}. "
            "Penalties go into penalties=[...], an aggregator into aggregator=; there is one weighting."
        )


def settings_fit(owner: str, setting: str, given: Sequence[str], names: Sequence[str]) -> None:
    """A setting per loss has to name exactly the losses."""
    if set(given) != set(names):
        missing = listed(n for n in names if n not in given)
        unknown = listed(n for n in given if n not in names)
        raise ValueError(
            f"{owner}: {setting} must name the losses {listed(names)}; missing: {missing}; "
            f"unknown: {unknown}."
        )


def limits(setting: str, value: Any) -> None:
    """``setting`` has to be two numbers, the lower one first."""
    low, high = pair(setting, value, "(0.0, 1.0)")
    if not number(setting, low) < number(setting, high):
        raise ValueError(f"{setting} must be (lowest, highest), got {value!r}.")


def each(given: Any) -> list[Any]:
    """The values of a setting that is one value, a sequence of such, or a mapping by the losses' names."""
    if isinstance(given, Mapping):
        return list(given.values())
    given = _listed_numbers(given)
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def per_loss(owner: str, setting: str, given: Any, names: Sequence[str]) -> dict[str, Any]:
    """A setting that is one value, a sequence in the order of the losses, or a mapping by name."""
    if isinstance(given, Mapping):
        settings_fit(owner, setting, list(given), names)
        return {name: given[name] for name in names}
    given = _listed_numbers(given)
    if isinstance(given, str) or not isinstance(given, Sequence):
        return dict.fromkeys(names, given)
    if len(given) != len(names):
        raise ValueError(
            f"{owner}: {setting} has {len(given)} values for the {len(names)} losses {listed(names)}: "
            "give one per loss, or a mapping from name to value."
        )
    return dict(zip(names, given, strict=True))


def _listed_numbers(given: Any) -> Any:
    return given.tolist() if isinstance(given, Tensor | np.ndarray) else given


# ---------------------------------------------------------------- losses


def positive_loss(owner: str, name: str, value: float, what: str = "the value") -> None:
    """Ratios of losses make sense only above 0."""
    if not value > 0:
        raise ValueError(
            f"{owner}: {what} of loss {name!r} is {value:g}, but the method needs losses above 0: add a "
            "constant to the loss, which leaves its gradient as it is."
        )


# ---------------------------------------------------------------- interop


def not_installed(what: str, package: str, extra: str, error: ImportError) -> NoReturn:
    """An optional package is missing."""
    raise ImportError(
        f'{what} needs {package}, which is not installed: pip install "manyloss[{extra}]".'
    ) from error


# ---------------------------------------------------------------- adversaries and robustness

LOGIT_TOLERANCE = 1e-4


def images(x: Tensor, input_range: tuple[float, float] | None) -> None:
    """The inputs are floating point, finite and inside the range that eps is measured in."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.shape[0] == 0:
        received = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"x must be a floating point tensor [B, ...] with at least one example; received {received}. "
            "Convert bytes with x.float() / 255."
        )
    low, high = (value.item() for value in x.detach().aminmax())
    if not (low > -float("inf") and high < float("inf")):
        raise ValueError("x holds NaN or infinite values; remove these examples first.")
    if input_range is not None and (low < input_range[0] or high > input_range[1]):
        raise ValueError(
            f"x must lie in [{input_range[0]:g}, {input_range[1]:g}], because eps and the gradients are in "
            "pixel units; "
            f"received values from {low:g} to {high:g}. Move the normalisation into the model, as its first "
            "layer."
        )


def labels_of(x: Tensor, y: Tensor) -> None:
    """The labels are one integer per example."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        received = f"{y.dtype} {list(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"y must hold one class number per example, int64 [{x.shape[0]}]; received {received}."
        )
    if y.device != x.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}; move both to one device.")


def labels_in_range(y: Tensor, classes: int, name: str = "y") -> None:
    """Every label names one of the outputs."""
    low, high = (int(value.item()) for value in y.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name} must hold class numbers from 0 to {classes - 1}, one per output of the model; "
            f"received {low} to {high}."
        )


def logits(outputs: object, batch: int, who: str = "the model") -> Tensor:
    """The outputs are [B, C] numbers before the softmax."""
    if (
        not isinstance(outputs, Tensor)
        or outputs.dim() != 2
        or outputs.shape[0] != batch
        or outputs.shape[1] < 2
    ):
        received = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"{who} must return logits of shape [{batch}, C] with C >= 2; received {received}.")
    with torch.no_grad():
        values = outputs.detach().float()
        row_sums = values.sum(1)
        if bool(((values >= 0).all() & ((row_sums - 1).abs() < LOGIT_TOLERANCE).all()).item()):
            raise ValueError(
                f"{who} must return logits; received probabilities (no value below 0, every row sums to 1). "
                "Leave out the softmax."
            )
        for sign, what in ((1, "log-probabilities"), (-1, "negative log-probabilities")):
            if bool(((sign * values).logsumexp(1).abs() < LOGIT_TOLERANCE).all().item()):
                raise ValueError(
                    f"{who} must return logits; received {what} (every row's probabilities sum to 1). "
                    "Leave out the log-softmax."
                )
    return outputs


def auxiliary_outputs(outputs: object, shape: Sequence[int], who: str) -> Tensor:
    """The network that reads gradients returns what it is trained for."""
    if not isinstance(outputs, Tensor) or list(outputs.shape) != list(shape):
        received = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"{who} must return shape {list(shape)}; received {received}. Change its last layer."
        )
    return outputs


NORMS = ("linf", "l2")


def eps(value: float, norm: str = "linf") -> None:
    """The size of a perturbation is in pixel units; a length in the L2 norm may be above 1."""
    one_of("norm", norm, NORMS)
    number("eps", value)
    if norm == "l2":
        if not 0.0 <= value < math.inf:
            raise ValueError(
                f"eps of an L2 ball is a length in pixel units, from 0 on; received {value:g}. The diagonal "
                "of the cube [0, 1]^d, sqrt(d), reaches every image."
            )
    elif not 0.0 <= value <= 1.0:
        raise ValueError(
            f"eps is in [0, 1] pixel units; received {value:g}. Divide by 255: eps={value / 255:.4g} is "
            f"{value:g}/255."
        )
