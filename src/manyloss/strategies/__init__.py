"""Strategies: how a step reads and writes, one file each, in the order in which it runs.

``plain``: one backward, nothing is read. ``one_backward``: gradients are picked up while the one backward
runs. ``per_loss``: one read per loss, then one backward. ``direct``: the reads bring all that is written.
``folded``: inner products part by part, in little memory, then one backward.
"""

from manyloss.strategies import direct, folded, one_backward, per_loss, plain
from manyloss.strategies._step import Outcome, Step

RUN = {
    "plain": plain.run,
    "one_backward": one_backward.run,
    "per_loss": per_loss.run,
    "direct": direct.run,
    "folded": folded.run,
}

__all__ = ["Outcome", "RUN", "Step"]
