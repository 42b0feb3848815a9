"""Problems whose losses live on separate rows of a batch."""

from __future__ import annotations

from torch import Tensor, nn

from manyloss.lab.problem import Problem


class BatchSeparated(Problem):
    """What compares gradients does so at the parameters of ``model.encoder``.

    At the features gradients of losses on separate rows have nothing in common.
    """

    def compared_at(self, model: nn.Module) -> list[Tensor]:
        """All of the encoder."""
        encoder = model.encoder
        assert isinstance(encoder, nn.Module)
        return list(encoder.parameters())
