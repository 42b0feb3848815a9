"""Tap: read one gradient per loss while the one ordinary backward runs, without a pass of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyloss import graph
from manyloss.gradients import full_precision, scale_rows


def is_legal(features: Sequence[Tensor], edges: Sequence[graph.Edge], walk: graph.Walk) -> bool:
    """Whether the graph lets one backward tell the losses apart.

    Every edge into the features has to belong to one loss, and no user's hook may stand on the features. The
    first features hook to fire merges for all features, so every consumer of any has to have run by then:
    the engine runs the newest nodes first, and leaves at once.
    """
    if not edges or walk.shared_consumer or walk.loss_is_feature:
        return False
    if any(tensor._backward_hooks for tensor in features):
        return False
    if len(edges) == 1:
        return True
    newest = max(node._sequence_nr() for node, _ in edges)
    return (
        not any(tensor.is_leaf for tensor in features)
        and len({tensor.device for tensor in features}) == 1
        and all(consumer.node._sequence_nr() > newest for consumer in walk.consumers)
    )


class Tap:
    """Post-hooks on the nodes that consume the features; each picks up one loss's contribution.

    Args:
        T: number of losses.
        features: [B, *F] each.
        consumers: the inputs of nodes to listen to.

    """

    def __init__(self, T: int, features: Sequence[Tensor], consumers: Sequence[graph.Consumer]) -> None:
        self.features = features
        self.held: list[list[Tensor | None]] = [[None] * T for _ in features]
        self.handles = [
            consumer.node.register_hook(partial(self._pick_up, consumer)) for consumer in consumers
        ]

    def _pick_up(self, consumer: graph.Consumer, grad_inputs: Sequence[Tensor | None], _: Any) -> None:
        grad = grad_inputs[consumer.input_number]
        if grad is None:
            return
        row, like = self.held[consumer.feature], self.features[consumer.feature]
        grad = grad.detach() if grad.shape == like.shape else grad.detach().sum_to_size(like.shape)
        before = row[consumer.loss]
        row[consumer.loss] = grad if before is None else before + grad

    def gradients(self, factors: Tensor) -> list[Tensor]:
        """What was picked up, times one factor per loss: per features tensor [T, B, *F]."""
        stacked = []
        for row, like in zip(self.held, self.features, strict=True):
            zero = torch.zeros_like(like)
            rows = torch.stack([full_precision(zero if grad is None else grad) for grad in row])
            stacked.append(scale_rows(rows, factors))
            row.clear()
        return stacked

    def remove(self) -> None:
        """A hook that is left behind would corrupt the next backward."""
        for handle in self.handles:
            handle.remove()
