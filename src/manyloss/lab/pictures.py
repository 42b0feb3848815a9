"""Pictures: what a report shows of a few test examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    """A few test examples as bytes, [N, H, W] in grey or [N, H, W, 3].

    ``truth`` and ``outputs`` are by task; their sizes may differ from the inputs'.
    """

    inputs: Tensor
    truth: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
