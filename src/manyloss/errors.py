"""The kinds of errors that a caller may want to tell apart; each is also the built-in kind it refines."""

from __future__ import annotations


class NotFiniteError(ValueError):
    """A loss or a gradient holds NaN or infinity, and there is no GradScaler to skip the step."""


class BatchSeparatedError(ValueError):
    """Losses come from different rows of the batch, so their gradients at the features cannot be compared."""


class NoDoubleBackwardError(NotImplementedError, ValueError):
    """A method differentiates twice what can be differentiated once."""


class CheckpointError(ValueError):
    """A saved state does not fit the object that it is loaded into."""


class RankError(RuntimeError, ValueError):
    """The ranks can't take this step together: one refused it, or their process group was destroyed."""
