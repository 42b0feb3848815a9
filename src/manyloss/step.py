"""One step, five rooms: read -> penalise -> weigh -> aggregate -> write.

The write is ONE ordinary backward of the weighted losses (plus penalties), in which a hook at the features
puts the merged gradient in place of what arrives there. There are two ways to read:

- **tap**: no extra pass. Post-hooks on the nodes that consume the features pick up each loss's contribution
  during that one backward. Legal when every edge into the features belongs to one loss.
- **hook**: one ``autograd.grad`` per loss first. Always right.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from manyloss import checks, graph, tap
from manyloss.aggregation import Aggregator, Sum
from manyloss.distributed import Ranks, Setting, mean_over_ranks, ranks_of
from manyloss.gradients import LossGradients, Place, flat_row, read_losses, seed_of
from manyloss.losses import Losses, PresentLosses, feature_tensors, name_losses, parameters
from manyloss.penalties import Penalty
from manyloss.result import Path, StepResult
from manyloss.state import Method
from manyloss.weighting import Equal, GradientWeighting, LossWeighting, Weighting
from manyloss.write import hooks_at_features, hooks_at_params, replace, scaled

Rescale = Literal["none", "sum_norm"]
Read = Literal["auto", "tap", "hook"]

LARGEST_RESCALE = 100.0
_NO_DOUBLE_BACKWARD = (
    "CompiledFunctionBackward",
    "CudnnRnn",
    "MiopenRnn",
    "ScaledDotProductFlash",
    "ScaledDotProductEfficient",
    "ScaledDotProductCudnn",
    "ScaledDotProductFused",
)


class Observer(Protocol):
    """Something that looks at some of the steps, such as a ConflictRecorder; see ``MultiLoss.observers``."""

    def due(self) -> bool:
        """Asked once per step: whether this one is to be measured."""

    def before(self, losses: PresentLosses) -> None:
        """Called before the backward of a step that is due, while its graph can still be read."""

    def record(self, gradients: LossGradients, features: Sequence[Tensor]) -> None:
        """Called after the backward, with the unweighted gradients, unless the step was skipped."""


@dataclass
class _Step:
    """One call of ``backward``, once its input was checked."""

    all_names: tuple[str, ...]
    present: PresentLosses
    features: list[Tensor]
    edges: list[graph.Edge]
    params: list[Tensor]
    scale: Tensor | None
    scaler_skips: bool
    device: torch.device
    ranks: Ranks
    measure: bool
    observers: list[Observer] = field(default_factory=list)
    first: bool = False
    draws: dict[int, Tensor] = field(default_factory=dict)  # the generators' states before the step

    @property
    def names(self) -> list[str]:
        return self.present.names

    @property
    def values(self) -> Tensor:
        return self.present.values

    @property
    def loss_edges(self) -> list[graph.Edge | None]:
        return [None if root is None else graph.edge_of(root) for root in self.present.roots]

    @property
    def feature_roots(self) -> list[GradientEdge]:
        return [GradientEdge(node, number) for node, number in self.edges]

    def gradients(self, tensors: Sequence[Tensor], place: Place) -> LossGradients:
        return LossGradients(self.names, self.values, tensors, place, self.ranks)


class MultiLoss(nn.Module):
    """One line in place of ``sum(losses).backward()``.

    Args:
        weighting: one number per loss; equal weights when None.
        aggregator: merges the per-loss gradients; their sum when None.
        penalties: differentiable scalars of the gradients that join the objective.
        rescale: "sum_norm" scales the merged gradient to the norm of the unweighted sum of the gradients
            (factor at most 100, zero stays zero), so that methods can be compared at one learning rate.
        distributed: "auto" sums over the ranks of torch.distributed when it runs with more than one; False
            never; a process group does so within it.
        read: "auto" taps the one backward where that is legal; "hook" never does; "tap" is an error where
            it is not legal (for tests and benchmarks).

    The state of all its methods is in ``state_dict``; ``parameters()`` is empty: what learns here owns its
    optimiser.

    Raises:
        TypeError, ValueError: something that is no method, or methods that exclude each other.

    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        aggregator: Aggregator | None = None,
        penalties: Iterable[Penalty] = (),
        *,
        rescale: Rescale = "none",
        distributed: Setting = "auto",
        read: Read = "auto",
    ) -> None:
        super().__init__()
        weighting = Equal() if weighting is None else weighting
        aggregator = Sum() if aggregator is None else aggregator
        if isinstance(penalties, (Penalty, type)):
            raise checks.penalties_kind(penalties)
        penalties = list(penalties)
        checks.instance_of("weighting", weighting, Weighting, "GradNorm()")
        checks.instance_of("aggregator", aggregator, Aggregator, "GradDrop()")
        for penalty in penalties:
            checks.instance_of("penalties", penalty, Penalty, "CosReg()")
        checks.one_of("rescale", rescale, ("none", "sum_norm"))
        checks.one_of("read", read, ("auto", "tap", "hook"))
        if rescale != "none" and aggregator.keeps_norm:
            checks.one_norm_rule(rescale, type(aggregator).__name__)
        self.weighting = weighting
        self.aggregator = aggregator
        self.penalties = nn.ModuleList(penalties)
        self.rescale = rescale
        self.read = read
        self.distributed = distributed
        self.observers: list[Observer] = []
        self.names: tuple[str, ...] | None = None
        self._ranks: Ranks | None = None

    # ------------------------------------------------------------------ the step

    def backward(
        self,
        losses: Losses,
        features: Tensor | Sequence[Tensor] | None = None,
        shared_params: Tensor | Iterable[Tensor] | None = None,
        *,
        grad_scaler: Any = None,
        measure: bool = False,
    ) -> StepResult:
        """Fill ``.grad`` of encoder and heads, as ``sum(losses).backward()`` would, through the methods.

        Args:
            losses: mapping name -> scalar, sequence of scalars, or 1-D tensor. Names and order are fixed at
                the first call. None is a loss that is absent in this step: it is left out of every statistic
                and keeps its weight and state.
            features: [B, *F], or a sequence of such, where the gradients are aggregated; the activations
                where the encoder ends.
            shared_params: parameters. Without ``features`` the gradients are aggregated there. With
                ``features``, loss weightings and penalties measure there (GradNorm's W, CosReg's last
                encoder layer) and the rest at the features.
            grad_scaler: a ``torch.amp.GradScaler``; ``.grad`` is then scaled, for ``scaler.step(optimizer)``.
            measure: measure norms, Gramian and cosines in this step even if no method needs them.

        Returns:
            What was measured.

        Raises:
            TypeError, ValueError: bad input; nothing was changed.

        """
        due = [observer for observer in self.observers if observer.due()]
        step = self._prepare(losses, features, shared_params, grad_scaler, measure or bool(due))
        if not bool(torch.isfinite(step.values).all()):
            if step.scaler_skips:
                return self._pass_on(step)
            checks.finite_losses(step.names, step.values.tolist())
        reads = self._merges or self._measures_norms or self.penalties or step.measure
        walk = graph.walk(step.loss_edges, step.edges, step.params) if step.edges or reads else graph.Walk()
        for name, root, reached in zip(step.names, step.present.roots, walk.reached, strict=False):
            if step.edges and root is not None and not reached:
                raise checks.reaches_nothing(name, "features")
        for observer in due:
            observer.before(step.present)
        step.observers = due
        try:
            if not reads:
                return self._plain(step)
            # One path for all ranks: their collectives would not match on two.
            if step.ranks.all(self._tap_is_legal(step, walk)):
                return self._tap(step, walk)
            if self.read == "tap":
                raise checks.no_tap()
            return self._hook(step, walk)
        except BaseException:
            self._unbind(step)
            raise

    def set_progress(self, fraction: float) -> None:
        """Tell all methods which fraction of the training is done, in [0, 1]."""
        for method in self._methods:
            method.set_progress(fraction)

    def end_epoch(self) -> None:
        """Tell all methods that an epoch is over."""
        for method in self._methods:
            method.end_epoch()

    # ------------------------------------------------------------------ input

    @property
    def _methods(self) -> list[Method]:
        return [self.weighting, self.aggregator, *self._penalties]

    @property
    def _penalties(self) -> list[Penalty]:
        return [penalty for penalty in self.penalties if isinstance(penalty, Penalty)]

    @property
    def _merges(self) -> bool:
        """Whether what arrives at the shared part is replaced."""
        return (
            isinstance(self.weighting, GradientWeighting)
            or not isinstance(self.aggregator, Sum)
            or self.rescale != "none"
        )

    @property
    def _measures_norms(self) -> bool:
        return isinstance(self.weighting, LossWeighting) and self.weighting.needs.norms

    def _prepare(
        self, losses: Losses, features: Any, shared_params: Any, grad_scaler: Any, measure: bool
    ) -> _Step:
        named = name_losses(losses)
        if self.names is not None:
            checks.same_losses(self.names, named.names)
        tensors, params = feature_tensors(features), parameters(shared_params)
        self._check_place(tensors, params, measure)
        named.check_devices(tensors, "features")
        named.check_devices(params, "shared_params")
        edges = graph.independent_edges(tensors)
        if self._ranks is None:
            self._ranks = ranks_of(self.distributed)
        if self._ranks.world == 1 and named.device is None:
            raise checks.no_losses()
        present = named.exchange(self._ranks)
        device = named.device or torch.device("cpu")
        scale = None if grad_scaler is None else grad_scaler.scale(torch.ones((), device=device))
        skips = grad_scaler is not None and grad_scaler.is_enabled()
        return _Step(named.names, present, tensors, edges, params, scale, skips, device, self._ranks, measure)

    def _check_place(self, features: list[Tensor], params: list[Tensor], measure: bool) -> None:
        if not features and self.aggregator.needs.features:
            raise checks.needs_features(type(self.aggregator).__name__)
        if features or params:
            return
        if isinstance(self.weighting, GradientWeighting) or self._measures_norms:
            raise checks.needs_place(type(self.weighting).__name__)
        if not isinstance(self.aggregator, Sum):
            raise checks.needs_place(type(self.aggregator).__name__)
        for penalty in self._penalties:
            raise checks.needs_place(type(penalty).__name__)
        if self.rescale != "none":
            raise checks.needs_place(f"rescale={self.rescale!r}")
        if measure:
            raise checks.needs_place("measure=True")

    def _bind(self, step: _Step) -> None:
        """Once: fit the methods to the names of the losses and to the ranks.

        It comes after everything that can be wrong with a step, so that a refused step leaves no trace.
        """
        if self.names is None:
            step.first = True
            for method in self._methods:
                method.start(step.all_names)
            self.names = step.all_names
        if self.weighting.ranks is not step.ranks:
            for method in self._methods:
                method.ranks = step.ranks
                if method.generator is not None:
                    step.ranks.share_generator(method.generator)
                step.ranks.share_parameters(list(method.parameters()))
        for method in self._methods:
            if method.generator is not None:
                step.draws[id(method)] = method.generator.get_state()
            method.check(step.names, step.values)

    def _unbind(self, step: _Step) -> None:
        """Undo what a step that was refused or skipped did to the methods."""
        for method in self._methods:
            if id(method) in step.draws and method.generator is not None:
                method.generator.set_state(step.draws[id(method)])
            method.discard()
            if step.first:
                method.reset()
        if step.first:
            self.names = None

    # ------------------------------------------------------------------ the paths

    def _plain(self, step: _Step) -> StepResult:
        """A loss weighting with the plain sum needs no gradient apart: one backward."""
        self._bind(step)
        weights = self._loss_weights(step)
        self._run_backward(step, weights)
        self._learn(step, None)
        return self._result(step, weights)

    def _pass_on(self, step: _Step) -> StepResult:
        """Something is not finite and a scaler will skip the step: plain gradients, untouched state."""
        weights = torch.ones(len(step.names), dtype=torch.float64)
        self._run_backward(step, weights)
        return self._result(step, weights, skipped=True)

    def _tap_is_legal(self, step: _Step, walk: graph.Walk) -> bool:
        if self.read == "hook" or self.penalties or not tap.is_legal(step.features, step.edges, walk):
            return False
        if self._measures_norms and step.params:
            watched = [graph.edge_of(param) for param in step.params]
            return not walk.around and any(graph.depends_on(edge, watched) is not None for edge in step.edges)
        return True

    def _tap(self, step: _Step, walk: graph.Walk) -> StepResult:
        """Read and write in one backward."""
        self._bind(step)
        weights = self._loss_weights(step)
        if bool((weights == 0).any()):  # a weight of 0 leaves nothing to measure
            return self._hook(step, walk)
        fresh = [leaf for leaf in walk.leaves if leaf.grad is None]
        taps = tap.Tap(len(step.names), step.features, walk.consumers)
        merged: _Merged | None = None
        busy = False

        def merge() -> _Merged:
            factors = 1.0 / weights if step.scale is None else 1.0 / (weights * float(step.scale))
            gradients = step.gradients(taps.gradients(factors), "features")
            norms_at = gradients
            if self._measures_norms and step.params:
                norms_at = self._norms_behind(step, gradients)
            return self._merge(step, weights, gradients, norms_at)

        def put(number: int, grad: Tensor) -> Tensor | None:
            nonlocal merged, busy
            if busy:
                return None
            if merged is None:
                busy = True
                try:
                    merged = merge()
                finally:
                    busy = False
            if merged.tensors is None:
                return None
            return scaled(merged.tensors[number], step.scale).to(grad.dtype)

        handles = hooks_at_features(step.features, step.edges, put)
        try:
            self._run_backward(step, weights)
            if merged is None:  # no gradient arrived on this rank; the others wait for its part
                merged = merge()
        except BaseException:
            for leaf in fresh:
                leaf.grad = None
            raise
        finally:
            taps.remove()
            for handle in handles:
                handle.remove()
        if merged.skipped:
            self._unbind(step)
            return self._result(step, weights, skipped=True, path="tap")
        self._learn(step, merged)
        return self._result(step, merged.weights, merged, path="tap")

    def _norms_behind(self, step: _Step, gradients: LossGradients) -> LossGradients:
        """Gradients at W, which lies behind the features, from those at the features: W's layer only."""
        rows = []
        for i in range(len(step.names)):
            with graph.reads_only(step.present.roots, step.features), checks.reading(step.names[i]):
                grads = torch.autograd.grad(
                    step.feature_roots,
                    step.params,
                    [g[i].to(z.dtype) for g, z in zip(gradients.tensors, step.features, strict=True)],
                    retain_graph=True,
                    allow_unused=True,
                )
            checks.reaches(step.names[i], grads, "shared_params")
            rows.append(flat_row(grads, step.params))
        return step.gradients([step.ranks.mean(torch.stack(rows))], "shared_params")

    def _hook(self, step: _Step, walk: graph.Walk) -> StepResult:
        """Read each loss apart, then write in one backward."""
        asks_params = bool(self.penalties) or self._measures_norms
        at_params = step.params if not step.features or asks_params else []
        at_features = bool(step.features) and (
            self._merges or step.measure or (asks_params and not step.params)
        )
        double = bool(self.penalties)
        self._refuse_double_backward(step)
        with graph.reads_only(step.present.roots, step.features):
            there, behind = read_losses(
                step.present.roots,
                step.names,
                step.feature_roots if at_features else [],
                step.features if at_features else [],
                at_params,
                step.scale,
                create_graph=double,
            )
        if double:
            checks.still_there(type(self._penalties[0]).__name__, walk.leaves)
        behind = [mean_over_ranks(tensor, step.ranks) for tensor in behind]
        graphs = []
        if at_features:
            graphs.append(step.gradients(there, "features"))
        if at_params:
            graphs.append(step.gradients(behind, "shared_params"))
        first, last = graphs[0], graphs[-1]  # merged at the first; norms and penalties from the last
        for one in graphs:
            if not all(one.finite):
                return self._stop(step, one)
        self._bind(step)
        weights = self._loss_weights(step)
        penalties: dict[str, Tensor] = {}
        for penalty in self._penalties:
            name = type(penalty).__name__
            again = sum(known.partition(" ")[0] == name for known in penalties)
            penalties[f"{name} {again + 1}" if again else name] = penalty(last)
        merged = self._merge(step, weights, first.detach(), last.detach())
        objective = sum((p for p in penalties.values() if p.requires_grad), start=torch.zeros(()))
        handles = []
        if merged.tensors is not None:
            own = self._penalties_at(step, objective)
            if step.features:
                handles = hooks_at_features(
                    step.features, step.edges, replace(merged.tensors, own, step.scale)
                )
            else:
                parts = torch.split(merged.tensors[0], [param.numel() for param in step.params])
                shares = step.ranks.shares(graph.reached_params(walk, step.params))
                whole = [
                    part.view_as(p) * share if share != 1 else part.view_as(p)
                    for part, p, share in zip(parts, step.params, shares, strict=True)
                ]
                put = replace(whole, own, step.scale)
                handles = hooks_at_params(step.params, put)
        try:
            self._run_backward(step, weights, objective)
        finally:
            for handle in handles:
                handle.remove()
        self._learn(step, merged)
        for penalty in self._penalties:
            penalty.learn(last.detach())
        return self._result(step, merged.weights, merged, path="hook", penalties=penalties)

    # ------------------------------------------------------------------ the rooms

    def _loss_weights(self, step: _Step) -> Tensor:
        if isinstance(self.weighting, LossWeighting):
            return self.weighting.weigh(step.names, step.values)
        return torch.ones(len(step.names), dtype=torch.float64)

    def _merge(
        self, step: _Step, weights: Tensor, gradients: LossGradients, norms_at: LossGradients
    ) -> _Merged:
        """Weigh and aggregate; at the features, or at shared parameters when there are none."""
        if isinstance(self.weighting, GradientWeighting) or step.measure:
            _ = gradients.gramian  # formed once; the check below then costs nothing more
        for one in (gradients, norms_at):
            if not all(one.finite):
                self._stop_inside(step, one)
                return _Merged(weights, None, gradients, norms_at, skipped=True)
        if not self._merges:
            return _Merged(weights, None, gradients, norms_at)
        if isinstance(self.weighting, GradientWeighting):
            weights = self.weighting.weigh_gradients(gradients)
        with torch.enable_grad(), torch.autocast(step.device.type, enabled=False):
            if isinstance(self.aggregator, Sum):
                tensors = gradients.combine(weights)
            else:
                places: Sequence[Tensor | None] = step.features or [None]
                tensors = self.aggregator.aggregate(gradients.weighted(weights), places, step.names)
        tensors = [tensor.detach() for tensor in tensors]
        if self.rescale == "sum_norm":
            tensors = _to_sum_norm(tensors, gradients)
        return _Merged(weights, tensors, gradients, norms_at)

    def _penalties_at(self, step: _Step, objective: Tensor) -> list[Tensor | None]:
        """The penalties' own gradient where the merged one is put, which joins it there."""
        places = step.feature_roots if step.features else step.params
        if not objective.requires_grad:
            return [None] * len(places)
        with graph.reads_only(step.present.roots, step.features):
            return list(torch.autograd.grad(objective, places, retain_graph=True, allow_unused=True))

    def _run_backward(self, step: _Step, weights: Tensor, objective: Tensor | None = None) -> None:
        roots: list[Any] = []
        seeds: list[Tensor] = []
        for root, weight in zip(step.present.roots, weights.tolist(), strict=True):
            if root is not None:
                factor = weight if step.scale is None else float(step.scale) * weight
                roots.append(root)
                seeds.append(seed_of(root, step.device, factor))
        if objective is not None and objective.requires_grad:
            roots.append(objective)
            seeds.append(seed_of(objective, step.device, step.scale))
        torch.autograd.backward(roots, seeds)

    def _learn(self, step: _Step, merged: _Merged | None) -> None:
        if merged is not None:
            for observer in step.observers:
                observer.record(merged.gradients, step.features)
        if isinstance(self.weighting, LossWeighting):
            norms = merged.norms_at.norms if merged is not None and self._measures_norms else None
            self.weighting.learn(step.names, step.values, norms)  # type: ignore[arg-type]
        for method in self._methods:
            method.commit()

    # ------------------------------------------------------------------ refusals

    def _stop(self, step: _Step, gradients: LossGradients) -> StepResult:
        if step.scaler_skips:
            return self._pass_on(step)
        checks.finite_gradients(step.names, gradients.finite, gradients.place, written=False)
        raise AssertionError

    def _stop_inside(self, step: _Step, gradients: LossGradients) -> None:
        if not step.scaler_skips:
            checks.finite_gradients(step.names, gradients.finite, gradients.place, written=True)

    def _refuse_double_backward(self, step: _Step) -> None:
        if not self.penalties:
            return
        places = [graph.edge_of(param) for param in step.params] or step.edges
        starts = [edge for edge in step.loss_edges if edge is not None]
        for node in graph.between(starts, places):
            if any(part in node.name() for part in _NO_DOUBLE_BACKWARD):
                raise checks.no_double_backward(node.name(), type(self._penalties[0]).__name__)

    # ------------------------------------------------------------------ result and state

    def _result(
        self,
        step: _Step,
        weights: Tensor,
        merged: _Merged | None = None,
        *,
        skipped: bool = False,
        path: Path = "plain",
        penalties: dict[str, Tensor] | None = None,
    ) -> StepResult:
        result = StepResult(
            losses=dict(zip(step.names, step.values.unbind(), strict=True)),
            weights=dict(zip(step.names, weights.unbind(), strict=True)),
            penalties={name: value.detach() for name, value in (penalties or {}).items()},
            skipped=skipped,
            path=path,
        )
        if merged is not None:
            source = next((g for g in (merged.gradients, merged.norms_at) if g.measured), None)
            if source is not None:
                result.gramian, result.cosines = source.gramian, source.cosines
            if source is not None or self._measures_norms:
                norms = (merged.norms_at if source is None else source).norms
                result.norms = dict(zip(step.names, norms.unbind(), strict=True))
        return result

    def get_extra_state(self) -> bytes:
        """Names of the losses and classes of the methods; the methods' own states are theirs."""
        buffer = io.BytesIO()
        methods = [type(method).__name__ for method in self._methods]
        torch.save({"names": self.names, "methods": methods}, buffer)
        return buffer.getvalue()

    def set_extra_state(self, state: bytes) -> None:
        """Take over the names, if the checkpoint is of the same losses and methods.

        Raises:
            ValueError: it is of others; nothing was changed.

        """
        loaded = torch.load(io.BytesIO(state), weights_only=True)
        methods = [type(method).__name__ for method in self._methods]
        checks.same_method(", ".join(methods), ", ".join(loaded["methods"]))
        if loaded["names"] is not None and self.names is not None:
            checks.checkpoint_losses(self.names, loaded["names"])
        self.names = None if loaded["names"] is None else tuple(loaded["names"])


@dataclass
class _Merged:
    """What came out of weighing and aggregating; ``tensors`` is None where the plain sum stays."""

    weights: Tensor
    tensors: list[Tensor] | None
    gradients: LossGradients
    norms_at: LossGradients
    skipped: bool = False


def _to_sum_norm(tensors: list[Tensor], gradients: LossGradients) -> list[Tensor]:
    """Scale to ||sum_i g_i||, by 100 at most; zero stays zero."""
    ones = torch.ones(len(gradients.names), dtype=torch.float64)
    wanted = (ones @ gradients.gramian @ ones).clamp(min=0.0).sqrt()
    square = torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().cpu()
    norm = gradients.spread.sum(square).sqrt() / gradients.spread.world
    factor = min(float(wanted / norm), LARGEST_RESCALE) if norm > 0 else 0.0
    return [tensor * factor for tensor in tensors]
