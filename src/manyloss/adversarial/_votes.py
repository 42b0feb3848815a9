"""The ranks decide together, again and again in a step, whether it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from manyloss.distributed import Ranks
from manyloss.exchange import raise_refusals


class Votes:
    """What the ranks of one step agree on; every rank casts the same votes in the same order.

    A rank that fails between two votes says so in the next one, so that the others fail with it in this step
    and do not wait for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.open = ranks.world > 1  # another vote will come, if all goes well

    @contextmanager
    def reported(self) -> Iterator[None]:
        """What is raised in between is reported to the other ranks, as long as they will vote once more."""
        try:
            yield
        except Exception as error:
            if self.open:
                self._cast(finite=True, refused=error)
            raise

    def all_finite(self, *tensors: Tensor) -> bool:
        """Whether no rank holds a NaN or an infinity; all of them get the same answer.

        Raises:
            RankError: another rank has failed since the last vote.

        """
        largest = torch.nn.utils.get_total_norm([each.detach() for each in tensors], norm_type=torch.inf)
        finite = bool(largest.isfinite())  # one pass; NaN stays NaN
        return self._cast(finite=finite) if self.ranks.world > 1 else finite

    def close(self) -> None:
        """No further vote will come in which a rank could report that it failed."""
        self.open = False

    def _cast(self, *, finite: bool, refused: Exception | None = None) -> bool:
        mine = torch.tensor([float(not finite), float(refused is not None)], device="cpu")
        not_finite, refusals = self.ranks.sum(mine).tolist()
        if refusals:
            self.close()
            raise_refusals(self.ranks, refused)
        if not_finite:
            self.close()
        return not not_finite
