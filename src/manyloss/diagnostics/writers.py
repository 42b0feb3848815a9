"""Where a recorder's numbers can go: one protocol, and what trackers call it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Writer = Callable[[Mapping[str, float], int], Any]
"""Takes in the numbers of one record, by tag, and the step that they belong to."""

# What MLflow takes in the name of a metric.
_NOT_IN_A_NAME = re.compile(r"[^\w\-. /]")


def writer_of(tracker: Any) -> Writer:
    """The writer of a tracker.

    Args:
        tracker: TensorBoard's ``SummaryWriter`` (``add_scalar``), a run of W&B (``log``), the module
            ``mlflow`` or a logger of Lightning (``log_metrics``), or a `Writer`.

    Raises:
        TypeError: it has none of these.

    """
    if hasattr(tracker, "add_scalar"):
        return lambda numbers, step: [tracker.add_scalar(tag, n, step) for tag, n in numbers.items()]
    if hasattr(tracker, "log_metrics"):
        return lambda numbers, step: tracker.log_metrics(
            {_NOT_IN_A_NAME.sub(" ", tag): number for tag, number in numbers.items()}, step=step
        )
    if hasattr(tracker, "log"):
        return lambda numbers, step: tracker.log(dict(numbers), step=step)
    if callable(tracker):
        return tracker  # type: ignore[no-any-return]
    raise TypeError(
        "writer must be TensorBoard's SummaryWriter, a run of W&B, mlflow, a logger of Lightning, or a "
        f"function of (numbers by tag, step); got {type(tracker).__name__}."
    )
