"""DB-MTL (Lin et al. 2023, "Dual-balancing for multi-task learning", section 3.2 and Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks
from manyloss.aggregation._base import Aggregator
from manyloss.linalg import row_norms, weighted_sum
from manyloss.state import State


@dataclass
class DBMTLState(State):
    """Moving averages of the gradients of all losses at the shared parameters, and steps so far.

    ``gradients`` is [T, P], on the device where they arrive; [T, 0] without averages.
    """

    gradients: Tensor
    steps: int


class DBMTL(Aggregator):
    """All gradients get the length of the longest, after a moving average.

    h_i <- b_t h_i + (1 - b_t) g_i, b_t = beta / t^decay, h_i(0) = 0; d = max_j ||h_j|| sum_i h_i / ||h_i||.
    The method's other half balances the losses by their logarithms: ``MultiLoss(LogLoss(), DBMTL())``.
    Averages over batches exist at shared parameters only, where they cost T times the parameters' memory. The
    paper has beta from 0.1 to 0.9. Scale as published: that of T longest gradients.

    Args:
        beta: of the moving average, in [0, 1); 0 is none.
        decay: of beta over the steps, 0 or more.

    Raises:
        ValueError: beta above 0 at features.

    """

    name = "db-mtl"
    search: ClassVar = {"beta": (0.0, 0.1, 0.5, 0.9)}
    learns = DBMTLState
    state: DBMTLState

    def __init__(self, beta: float = 0.0, decay: float = 0.5) -> None:
        super().__init__()
        checks.within("beta", beta, 0.0, 1.0 - 1e-12)
        checks.not_negative("decay", decay)
        self.beta, self.decay = beta, decay

    def first_state(self, names: tuple[str, ...]) -> DBMTLState:
        """No gradient seen yet."""
        return DBMTLState(torch.zeros(len(names), 0, dtype=torch.float64, device="cpu"), 0)

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """[T, ...] -> [...]"""
        return self.aggregate([gradients], [features], names)[0]

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at all tensors jointly."""
        at_features = features[0] is not None
        rows = list(gradients)
        if self.beta > 0.0:
            if at_features:
                raise ValueError(
                    f"DBMTL(beta={self.beta:g}) averages gradients over the steps, and at the features every "
                    "step has another batch: pass shared_params= without features, or use DBMTL(beta=0)."
                )
            rows = [self._averages(gradients[0], names)]
        norms = row_norms(rows)  # [T]
        if at_features:
            norms = self.ranks.sum(norms**2).sqrt()
        factors = torch.where(norms > 0, norms.max() / norms, torch.zeros_like(norms))
        return [weighted_sum(factors, each) for each in rows]

    def _averages(self, gradients: Tensor, names: Sequence[str]) -> Tensor:
        """The averages h of the losses present, [T, P]; that of an absent loss stays."""
        state, at = self.state, list(self.positions(names))
        b = self.beta / (state.steps + 1) ** self.decay
        h = state.gradients.to(gradients.device, gradients.dtype, copy=True)
        if not h.numel():
            h = gradients.new_zeros(len(h), gradients.shape[1])
        h[at] = b * h[at] + (1.0 - b) * gradients
        self.pending = DBMTLState(h, state.steps + 1)
        return h[at]
