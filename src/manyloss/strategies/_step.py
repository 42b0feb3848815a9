"""One step, checked and planned: what every strategy works on, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from manyloss.aggregation import Aggregator
from manyloss.distributed import Ranks
from manyloss.exchange import PresentLosses
from manyloss.gradients import LossGradients
from manyloss.graph import Edge, Root, Walk
from manyloss.penalties import Penalty
from manyloss.plan import Place, Plan
from manyloss.scaling import LossScale
from manyloss.weighting import Weighting
from manyloss.writing import backward


@dataclass
class Step:
    """What the user passed, what the methods are, and what is to be done.

    Attributes:
        losses: the T losses present.
        weights: [T] what they are multiplied with in the backward.
        features: [B, *F] each, made at ``edges``.
        params: shared parameters.
        scale: of the losses.
        nested: features depend on each other.
        look_closely: whether rows that losses have in common are counted in this step in any case.
        deferred: flags on a device, which nobody waits for in this step; all must turn out true.

    """

    losses: PresentLosses
    features: list[Tensor]
    edges: list[Edge]
    params: list[Tensor]
    walk: Walk
    plan: Plan
    scale: LossScale
    ranks: Ranks
    device: torch.device
    weighting: Weighting
    aggregator: Aggregator
    penalties: Sequence[Penalty]
    rescale: str
    weights: list[float]
    retain_graph: bool = False
    look_closely: bool = False
    nested: bool = False
    deferred: list[Tensor] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of the losses present."""
        return self.losses.names

    @property
    def roots(self) -> list[Root | None]:
        """Where this rank's backward starts."""
        return self.losses.roots

    @property
    def others(self) -> list[Tensor]:
        """The leaves that the losses reach beside the shared parameters."""
        shared = {id(param) for param in self.params}
        return [leaf for leaf in self.walk.leaves if id(leaf) not in shared]

    def gradients(self, parts: Sequence[Tensor], place: Place) -> LossGradients:
        """Gradients that were read at a place."""
        return LossGradients(
            self.names, lambda: self.losses.values, parts, place, self.ranks, norms_apart=self.plan.norms
        )

    def measured_from(self, gradients: LossGradients) -> LossGradients | None:
        """Where measuring happens at the features or their virtual layer: the gradients there."""
        if self.plan.measured_at == "virtual_layer":
            return gradients.at_virtual_layer(self.features)
        return gradients if self.plan.measured_at == gradients.place else None

    def plain_sums(self, gradients: LossGradients) -> list[Tensor] | None:
        """Where features depend on each other: what the losses send to each directly, weighted and summed.

        What arrives there also holds what the merged gradient of another sends on, and that has to stay.
        """
        if not self.nested or gradients.place != "features":
            return None
        return gradients.combine(self.weights)  # type: ignore[return-value]  # a part per features tensor

    def backward(self, objective: Tensor | None = None) -> None:
        """One ordinary backward of the weighted losses, plus an objective of its own."""
        backward(
            self.roots,
            self.weights,
            self.scale,
            self.device,
            objective=objective,
            retain_graph=self.retain_graph,
        )


@dataclass
class Outcome:
    """What a strategy found and wrote.

    Attributes:
        weights: [T], of the losses, or of what reaches the shared part.
        measured: the gradients that norms, Gramian and cosines are taken from.
        gradients: the gradients that were merged, or could be.
        penalties: value per penalty.
        skipped: something was not finite and was passed on for a scaler to skip.
        separated: [T, T], pairs whose inner product at the features is no evidence.

    """

    weights: Sequence[float]
    measured: LossGradients | None = None
    gradients: LossGradients | None = None
    penalties: dict[str, Tensor] = field(default_factory=dict)
    skipped: bool = False
    separated: Tensor | None = None
