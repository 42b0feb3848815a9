"""Read and write in one backward: gradients are picked up where the heads hand them to the features.

Post-hooks on the nodes that consume the features each deliver one loss's contribution; the hook on the
features then merges them and sends the result on. Nothing is raised inside the backward: DDP's reducer would
stay half-way and every later step would fail. What goes wrong there is kept, zeros go on, ``.grad`` is put
back and the error is raised afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manyloss import graph, layer_norms
from manyloss.gradients import LossGradients, OnlyMeasured, as_like, check_reached, read, row_of, scale_rows
from manyloss.layers import Layer
from manyloss.strategies._merge import Merged, merge
from manyloss.strategies._step import Outcome, Step
from manyloss.writing import Undo, hooked, in_place_of


def obstacle(
    features: Sequence[Tensor], edges: Sequence[graph.Edge], walk: graph.Walk, nested: bool = False
) -> str:
    """What keeps one backward from telling the losses apart; "" if nothing does.

    The first features hook to fire merges for all features, so every consumer of any has to have run by then:
    the engine runs the newest nodes first, and leaves at once.
    """
    if not walk.separate:
        return "losses share a node after the features"
    if len(edges) > 1:
        newest = max(node._sequence_nr() for node, _ in edges)
        if any(tensor.is_leaf for tensor in features):
            return "one of several features is a leaf"
        if len({tensor.device for tensor in features}) > 1:
            return "the features lie on several devices"
        if any(consumer.node._sequence_nr() <= newest for consumer in walk.consumers):
            return "some of the features are made after others were used"
    if nested:
        behind = graph.nodes_behind(edges)
        if any(consumer.node in behind for consumer in walk.consumers):
            return "a loss reaches a feature through what another feature is computed by"
    return ""


def run(step: Step) -> Outcome:
    """Pick up, merge and write."""
    undo = Undo(step.walk.leaves)
    pick_up = PickUp(step)
    inside = MergeInside(step, pick_up, undo)
    try:
        with pick_up, hooked(step.features, step.edges, inside):
            step.backward()
    except BaseException:
        undo.put_back()
        raise
    merged = inside.finish()  # where no gradient arrived on this rank, the others wait for its part
    if inside.error is not None:
        undo.put_back()
        raise inside.error
    return merged


class PickUp:
    """Post-hooks on the nodes that consume the features; each takes in one loss's contribution."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.held: list[list[Tensor | None]] = [[None] * len(step.names) for _ in step.features]
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for consumer in self.step.walk.consumers:
            self.handles.append(consumer.node.register_hook(partial(self._take, consumer)))

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:  # one that is left behind would corrupt the next backward
            handle.remove()

    def _take(self, consumer: graph.Consumer, grad_inputs: Sequence[Tensor | None], _: Any) -> None:
        grad = grad_inputs[consumer.input_number]
        if grad is None:
            return
        row, like = self.held[consumer.feature], self.step.features[consumer.feature]
        if grad.shape != like.shape:
            grad = grad.sum_to_size(like.shape)
        before = row[consumer.loss]
        row[consumer.loss] = grad if before is None else before + grad

    def rows(self) -> list[Tensor]:
        """What was picked up, unscaled and unweighted: per features tensor [T, B, *F]."""
        stacked = []
        weights = self.step.weights
        for row, like in zip(self.held, self.step.features, strict=True):
            rows = torch.stack([row_of(grad, like, self.step.scale) for grad in row])
            if any(weight != 1.0 for weight in weights):
                rows = scale_rows(rows, [1.0 / w for w in weights])
            stacked.append(rows)
            row.clear()
        return stacked


class MergeInside:
    """The hook on the features: the first to fire merges for all of them."""

    def __init__(self, step: Step, pick_up: PickUp, undo: Undo) -> None:
        self.step = step
        self.pick_up = pick_up
        self.undo = undo
        self.merged: Merged | None = None
        self.plain: list[Tensor] | None = None
        self.error: Exception | None = None
        self._reading = False

    def __call__(self, number: int, grad: Tensor | None) -> Tensor | None:
        """What goes on into the encoder from one features tensor."""
        if grad is None or self._reading:  # an unused output; or a read behind the features passes
            return None
        merged = self.finish()
        if self.error is not None:
            return torch.zeros_like(grad)
        new = None if merged.tensors is None else merged.tensors[number]
        if new is not None and self.plain is not None:
            return grad + in_place_of(grad, new - self.plain[number], self.step.scale)
        return None if new is None else in_place_of(grad, new, self.step.scale)

    def finish(self) -> Merged:
        """Merge, once."""
        if self.merged is None:
            self._reading = True
            try:
                with torch.enable_grad():
                    gradients = self.step.gradients(self.pick_up.rows(), "features")
                    self.plain = self.step.plain_sums(gradients)
                    self.merged = merge(self.step, gradients, self._measured(gradients))
            except Exception as error:
                self.error = error
                self.undo.cover(graph.leaves_behind(self.step.edges))
                self.merged = Merged([])
            finally:
                self._reading = False
        return self.merged

    def _measured(self, gradients: LossGradients) -> LossGradients | None:
        """The gradients where they are measured; at parameters behind the features, from those at them."""
        step = self.step
        if step.plan.measured_at != "shared_params":
            return step.measured_from(gradients)
        with graph.reads_only(step.roots, [*step.features, *step.params]):
            if step.ranks.world == 1 and not step.weighting.needs.gradients:
                layer = layer_norms.layer_behind(step.edges, step.params, len(step.names))
                if layer is not None:
                    return self._at_layer(layer, gradients)
            rows: list[list[Tensor]] = [[] for _ in step.params]
            for name, grads in self._behind(gradients, step.params):
                check_reached(name, grads, "shared_params")
                for row, grad, param in zip(rows, grads, step.params, strict=True):
                    row.append(row_of(grad, param, step.scale))
        return step.gradients([step.ranks.mean(torch.stack(row)) for row in rows], "shared_params")

    def _at_layer(self, layer: Layer, gradients: LossGradients) -> LossGradients:
        """Of one layer's weight, from the gradients at its output: no gradient of the weight is formed."""
        losses, scale = self.step.losses, self.step.scale
        at_output = (
            None if grads[0] is None else scale.remove(grads[0])
            for _, grads in self._behind(gradients, [layer.output])
        )
        if not self.step.plan.gramian:
            return OnlyMeasured(losses.names, lambda: losses.values, layer_norms.norms(layer, at_output))
        held = list(at_output)
        norms, gramian = layer_norms.norms(layer, held), layer_norms.gramian(layer, held)
        return OnlyMeasured(losses.names, lambda: losses.values, norms, gramian)

    def _behind(
        self, gradients: LossGradients, places: Sequence[graph.Root]
    ) -> Iterator[tuple[str, Sequence[Tensor | None]]]:
        """Loss by loss, its gradients at places behind the features, from those at them; scaled.

        Unscaled, the small ones would vanish in float16.
        """
        for i, name in enumerate(self.step.names):
            parts = zip(gradients.parts, self.step.features, strict=True)
            seeds = [as_like(self.step.scale.apply(part[i]), feature) for part, feature in parts]
            yield name, read(graph.roots_of(self.step.edges), name, places, seeds)
