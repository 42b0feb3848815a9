"""Methods of TorchJD as arms, without one written for each."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from manyloss import catalog
from manyloss.lab import checks
from manyloss.lab.arms.arm import Arm, ArmContext

if TYPE_CHECKING:
    from manyloss import MultiLoss


def torchjd_arm(text: str) -> Arm | None:
    """``torchjd:Krum``, or just ``krum``: a method of TorchJD, whose plain arguments are the options."""
    name = text.removeprefix("torchjd:").lower()
    try:
        from torchjd import aggregation
    except ImportError:
        if text.startswith("torchjd:"):
            raise checks.no_torchjd(text) from None
        return None
    known = {item.lower(): item for item in aggregation.__all__ if not item.endswith("Weighting")}
    if name not in known or known[name] == "Aggregator":
        return None
    kind = getattr(aggregation, known[name])

    def build(context: ArmContext, **options: Any) -> MultiLoss:
        from manyloss.interop import from_torchjd

        given = {option: value for option, value in options.items() if value is not None}
        return catalog.placed(from_torchjd(kind(**given), seed=context.seed))

    options = _plain_arguments(kind)
    return Arm(f"torchjd:{known[name]}", f"TorchJD's {known[name]}.", build, options, later=tuple(options))


def _plain_arguments(kind: type) -> dict[str, Any]:
    """The arguments of a class that are a number, a word or a truth value; None for one without a default."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        says = parameter.annotation
        says = says if isinstance(says, str) else getattr(says, "__name__", str(says))
        has_plain_default = isinstance(parameter.default, bool | int | float | str)
        if has_plain_default or says.removesuffix(" | None") in ("bool", "int", "float", "str"):
            found[name] = None if parameter.default is parameter.empty else parameter.default
    return found
