"""Warnings that a run gives once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from manyloss.graph import Edge, leaves_behind

NEGLECTED, OF_EVEN = 0.01, 0.1
"""Below this share of all weights, and below this part of an even share, a loss counts as neglected."""
EVERY, LOOKS = 10, 20
"""One look at the weights in so many steps; so many looks in a row make a finding."""


class Notices:
    """What this run has warned of already, and what is watched for a warning to come.

    Attributes:
        given: what a warning is about -> its text.

    """

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self._steps = 0
        self._low: dict[str, int] = {}

    def once(self, what: str, text: str) -> None:
        """Warn, unless this run has warned of it before.

        Args:
            what: it is about.
            text: of the warning.

        """
        if what not in self.given:
            self.given[what] = text
            warnings.warn(text, stacklevel=5)

    def of_sums(self, names: Sequence[str], contains: Sequence[tuple[int, int]]) -> None:
        """A loss that already holds another one as a term counts it twice.

        Args:
            names: of the losses present.
            contains: (i, j): loss i is a sum that has loss j as a term.

        """
        if contains:
            whole, term = (names[k] for k in contains[0])
            self.once(
                "sums",
                f"Loss {whole!r} is a sum that has loss {term!r} as a term (as after `{whole} += {term}`), "
                f"and {term!r} is passed as well: it counts twice. Pass the terms, each once.",
            )

    def of_partly_merged(self, around: Sequence[Tensor], edges: Sequence[Edge]) -> None:
        """Leaves that losses reach around the features and that also lie behind them: looked for once.

        Args:
            around: leaves that losses reach without passing the features.
            edges: of the features.

        """
        behind = {id(leaf) for leaf in leaves_behind(edges)}
        partly = [leaf for leaf in around if id(leaf) in behind]
        if not partly:
            return
        shape = list(max(partly, key=torch.numel).shape)
        many = len(partly) > 1
        who = f"{len(partly)} parameters (the largest of shape {shape})" if many else f"A parameter {shape}"
        self.once(
            "partly merged",
            f"{who} {'are' if many else 'is'} reached through the features and around them, so that only a "
            "part of the gradient there is merged; the rest is added plainly. multi.explain(losses, "
            "features=..., model=model) says which, and where features could be taken.",
        )

    def of_neglect(self, names: Sequence[str], weights: Sequence[float], who: str) -> None:
        """A method made for peers may switch off the loss that matters.

        Args:
            names: of the losses present.
            weights: [T], of this step.
            who: gave them.

        """
        self._steps += 1
        if self._steps % EVERY or len(names) == 1:
            return
        sizes = [abs(w) for w in weights]
        share = min(NEGLECTED, OF_EVEN / len(sizes))
        least = share * sum(sizes)
        for name, size in zip(names, sizes, strict=True):
            self._low[name] = self._low.get(name, 0) + 1 if size < least else 0
            if self._low[name] == LOOKS:
                self.once(
                    "neglect",
                    f"Loss {name!r} has held less than {100 * share:.2g} % of {who}'s weight for "
                    f"{EVERY * LOOKS} steps: it hardly trains what the losses share. If it is the one that "
                    f"matters, keep it whole with MultiLoss(Primary({name!r})).",
                )
