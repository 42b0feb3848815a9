"""manyloss: train one PyTorch model on several losses by shaping their gradients.

One line in place of ``sum(losses).backward()``::

    multi = MultiLoss(weighting=GradNorm())
    multi.backward(losses, features=z)

Torch is imported with the first of these names, or module, that is asked for: ``manyloss --help`` needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyloss.catalog import method, methods, multi_loss
    from manyloss.distributed import batch_share
    from manyloss.gradients import LossGradients
    from manyloss.result import StepResult
    from manyloss.step import MultiLoss

__version__ = "0.1.0"

__all__ = [
    "LossGradients",
    "MultiLoss",
    "StepResult",
    "__version__",
    "batch_share",
    "method",
    "methods",
    "multi_loss",
]
_HOMES = {
    "LossGradients": "gradients",
    "MultiLoss": "step",
    "StepResult": "result",
    "batch_share": "distributed",
    "method": "catalog",
    "methods": "catalog",
    "multi_loss": "catalog",
}


def __getattr__(name: str) -> Any:
    """One of the names above, or a module of the package."""
    if name in _HOMES:
        found = getattr(import_module(f"manyloss.{_HOMES[name]}"), name)
    else:
        try:
            found = import_module(f"manyloss.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"manyloss.{name}":
                raise
            raise AttributeError(f"module 'manyloss' has no attribute {name!r}") from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
