"""MultiLoss: one line in place of ``sum(losses).backward()``. A step is: check, plan, run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manyloss import checks
from manyloss.aggregation import Aggregator, Sum
from manyloss.checking import Checked, Wanted, check_step
from manyloss.cuts import Cuts, Cuttable, cut_apart
from manyloss.distributed import Ranks, Setting, ranks_of
from manyloss.errors import NotFiniteError
from manyloss.exchange import PresentLosses
from manyloss.explain import Explanation, explain
from manyloss.frozen import Frozen, refuse_other_functions
from manyloss.losses import Features, Losses, SharedParams
from manyloss.methods import Methods
from manyloss.penalties import Penalty
from manyloss.plan import Facts, Needs, Plan, Read, plan
from manyloss.precision import usual_modes
from manyloss.result import StepResult
from manyloss.scaling import LossScale
from manyloss.strategies import RUN, Outcome, Step
from manyloss.strategies.plain import pass_on
from manyloss.telling import Told
from manyloss.total import total
from manyloss.weighting import Equal, Weighting

Rescale = Literal["none", "sum_norm"]
MeasureAt = Literal["auto", "virtual_layer"]

NOT_FINITE = Plan("plain", because="a loss is not finite")
LOOK_CLOSELY_EVERY = 100
"""Steps after which common rows of the losses are counted again."""


class Observer(Protocol):
    """Something that looks at some of the steps, such as a ConflictRecorder; see ``MultiLoss.observers``."""

    def due(self) -> bool:
        """Asked once per step: whether this one is to be measured."""

    def before(self, losses: PresentLosses) -> None:
        """Called before the backward of a step that is due, while its graph can still be read."""

    def record(self, outcome: Outcome, features: Sequence[Tensor]) -> None:
        """Called after the backward, with the unweighted gradients, unless the step was skipped."""


@dataclass
class _Run:
    """What a MultiLoss knows of the run it is in, none of which is saved.

    Attributes:
        ranks: of all steps; None before the first.
        met: names and order of the losses were compared with the other ranks.
        steps: that were written.
        deferred: flags of the last step on a device that was not waited for.
        last: what the last step measured.
        frozen: what is held, within ``MultiLoss.frozen``.

    """

    ranks: Ranks | None = None
    met: bool = False
    steps: int = 0
    deferred: list[Tensor] = field(default_factory=list)
    last: StepResult | None = None
    frozen: Frozen | None = None

    @property
    def held(self) -> Frozen | None:
        """What is held, once there is something."""
        return self.frozen if self.frozen is not None and self.frozen.weights is not None else None


class MultiLoss(nn.Module):
    """One line in place of ``sum(losses).backward()``.

    Args:
        weighting: one number per loss; equal weights when None.
        aggregator: merges the per-loss gradients; their sum when None.
        penalties: differentiable scalars of the gradients that join the objective.
        rescale: "sum_norm" scales the merged gradient to the norm of the unweighted sum of the gradients
            (factor at most 100, zero stays zero), so that methods can be compared at one learning rate.
        measure_at: "auto" measures at ``shared_params`` if they are given, else where gradients are merged;
            "virtual_layer" at the virtual layer of the features (GradDrop 2020, eq. 3), for losses that live
            on separate rows of the batch.
        distributed: "auto" sums over the ranks of torch.distributed when it runs with more than one; False
            never; a process group does so within it.
        read: how gradients are read at features: "auto" picks them up in the one backward where that is
            right; "per_loss" never does; "one_backward" is an error where it cannot be done (for tests and
            benchmarks).
        low_memory: where gradients are merged at shared parameters by a weighting that needs their inner
            products alone, hold no more of them than an ordinary backward writes, for one pass more.

    The state of all its methods is in ``state_dict``, as tensors; ``parameters()`` is empty: what learns here
    owns its optimiser.

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
        measure_at: MeasureAt = "auto",
        distributed: Setting = "auto",
        read: Read = "auto",
        low_memory: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(penalties, Penalty) or not isinstance(penalties, Iterable):
            name = getattr(penalties, "__name__", type(penalties).__name__)
            raise TypeError(
                f"penalties must be a sequence, got a bare {name}: write penalties=[{name}(...)]."
            )
        self.weighting: Weighting = Equal() if weighting is None else weighting
        self.aggregator: Aggregator = Sum() if aggregator is None else aggregator
        checks.instance_of("weighting", weighting or self.weighting, Weighting, "GradNorm()")
        checks.instance_of("aggregator", aggregator or self.aggregator, Aggregator, "GradDrop()")
        penalties = list(penalties)
        for penalty in penalties:
            checks.instance_of("penalties", penalty, Penalty, "CosReg()")
        checks.one_of("rescale", rescale, ("none", "sum_norm"))
        checks.one_of("measure_at", measure_at, ("auto", "virtual_layer"))
        checks.one_of("read", read, ("auto", "one_backward", "per_loss"))
        if rescale != "none" and self.aggregator.keeps_norm:
            raise ValueError(
                f"rescale={rescale!r} and {type(self.aggregator).__name__}(renormalize=True) both fix the "
                "norm of the merged gradient: use one of them."
            )
        self.penalties = nn.ModuleList(penalties)
        self._methods = Methods(self.weighting, self.aggregator, penalties, rescale != "none")
        self.rescale, self.measure_at, self.read = rescale, measure_at, read
        self.distributed, self.low_memory = distributed, low_memory
        self.observers: list[Observer] = []
        self.cuts = Cuts()
        self.told = Told()
        self._run = _Run()

    # ------------------------------------------------------------------ the step

    def backward(
        self,
        losses: Losses,
        features: Features | None = None,
        shared_params: SharedParams | None = None,
        *,
        grad_scaler: Any = None,
        measure: bool = False,
        retain_graph: bool = False,
        divide_by: float = 1.0,
    ) -> StepResult:
        """Fill ``.grad`` of encoder and heads, as ``sum(losses).backward()`` would, through the methods.

        Args:
            losses: mapping name -> scalar, sequence of scalars, or 1-D tensor. Names and order are fixed at
                the first call. None is a loss that is absent in this step: it is left out of every statistic
                and keeps its weight and state.
            features: [B, *F], or a sequence or mapping of such, where the gradients are merged: the
                activations where the encoder ends. Left out, those that `cut` remembers.
            shared_params: parameters, or a module (those that require grad). Without ``features`` gradients
                are merged there. With ``features`` they are merged at the features and measured here
                (GradNorm's W, CosReg's last encoder layer, the Gramian of a gradient weighting).
            grad_scaler: a ``torch.amp.GradScaler``; ``.grad`` is then scaled, for ``scaler.step(optimizer)``.
            measure: measure norms, Gramian and cosines in this step even if no method needs them.
            retain_graph: as in ``Tensor.backward``.
            divide_by: what is written is divided by it (the number of accumulated micro-batches); methods see
                the losses as they are.

        Returns:
            What was measured.

        Raises:
            TypeError, ValueError: bad input; nothing was changed.
            NotFiniteError: a loss or a gradient is not finite and there is no scaler; nothing was changed.
            BatchSeparatedError: a method would compare gradients that live on separate rows of the features.
            NoDoubleBackwardError: a penalty differentiates twice what can be differentiated once.
            RankError: another rank was refused; nothing was changed.

        """
        if divide_by != 1.0:
            checks.positive("divide_by", divide_by)
        features = self.cuts.take(features)
        with usual_modes():
            if self._run.deferred:
                self._ask_deferred()
            held = self._run.held
            due = [] if held else [observer for observer in self.observers if observer.due()]
            skips = grad_scaler is not None and grad_scaler.is_enabled()
            wanted = self._wanted(measure or bool(due), skips)
            checked = check_step(
                losses, features, shared_params, wanted, self._ranks_of_step(), self._run.met
            )
            self._run.met = True
            if checked.walk.contains:
                self.told.of_sums(checked.losses.names, checked.walk.contains)
            scale = LossScale.of(grad_scaler, checked.device).divided_by(divide_by)
            step = self._step(checked, scale, retain_graph, wanted.measure)
            if checked.finite and held:
                self._run.last = StepResult.of(step, held.step(step))
            elif checked.finite:
                self._run.last = self._take(step, checked, wanted, due)
            else:
                self._run.last = StepResult.of(step, pass_on(step))
            return self._run.last

    def _take(self, step: Step, checked: Checked, wanted: Wanted, due: list[Observer]) -> StepResult:
        """Weigh, plan and run; leave no trace in the methods when that fails or is skipped."""
        before = self._methods.begin(checked.given.names, step.ranks)
        outcome = None
        try:
            values = self._methods.weigh(step)
            step.plan = plan(
                wanted.needs,
                _facts(step, checked),
                measure=wanted.measure,
                virtual_layer=self.measure_at == "virtual_layer",
                read=self.read,
                low_memory=self.low_memory,
            )
            if self._run.steps == 0 and step.plan.merged_at == "features":
                self.told.of_partly_merged(step.walk.leaves, step.edges)
            if self._run.frozen:
                self._run.frozen.check_one_function(step, wanted.needs)
            for observer in due:
                observer.before(step.losses)
            outcome = RUN[step.plan.strategy](step)
        finally:
            if outcome is None or outcome.skipped:
                self._methods.undo(before)
        if not outcome.skipped:
            self._written(step, outcome, values, due)
            if self._run.frozen:
                self._run.frozen.hold(step.names, outcome)
        return StepResult.of(step, outcome)

    def total(
        self,
        losses: Losses,
        features: Features | None = None,
        shared_params: SharedParams | None = None,
        *,
        grad_scaler: Any = None,
        measure: bool = False,
    ) -> Tensor:
        """The losses as one scalar whose own ``backward()`` runs the step: for a trainer that calls it. ::

            loss = multi.total(losses, features=z)  # was: sum(losses.values())
            trainer.backward(loss)                  # however it scales and divides
            multi.last                              # what the step measured

        Its value is the plain sum of the losses, which is what a trainer logs. Whatever arrives as its
        gradient (a GradScaler's scale, 1 / accumulated batches, a trainer's own factor) scales what is
        written; methods see the losses as they are. Under ``torch.no_grad()`` it is only the sum.

        The step is taken once, with the graph kept if that backward keeps it; only whole backwards run it
        (not ``backward(inputs=...)``). Nothing else may be added to it that shares the encoder, unless
        the backward keeps the graph: pass that loss in ``losses``.

        Args:
            losses: as in `backward`.
            features: as in `backward`.
            shared_params: as in `backward`.
            grad_scaler: who skips steps that are not finite. Without it, losses that come scaled by anything
                but 1 are taken to have such a scaler: what is not finite is then passed on, with a warning.
                A disabled one says that there is none.
            measure: as in `backward`.

        Raises:
            TypeError, ValueError: bad input, here or, for what only the step can see, in ``backward()``.
            RuntimeError: a second backward of one total, ``create_graph=True``, a total within `frozen`, or
                inside the forward of a DistributedDataParallel that looks for unused parameters.

        """
        features = self.cuts.take(features) if torch.is_grad_enabled() else features
        if self._run.frozen:
            self._run.frozen.refuse_total()
        return total(self, losses, features, shared_params, grad_scaler, measure)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """One function for a line search: the first step weighs and learns, the others hold its weights. ::

            def closure():
                optimizer.zero_grad()
                return multi.backward(losses_of(net), shared_params=net).weighted_sum

            with multi.frozen():
                optimizer.step(closure)  # torch.optim.LBFGS

        Within it every step is the gradient of sum_i w_i L_i with the same w, and ``result.weighted_sum`` is
        that function's value. Nothing is measured, learned or recorded after the first step. Around many
        calls of ``optimizer.step`` it is one function for all of them, which the memory of L-BFGS asks for.

        Raises:
            ValueError: the methods write something else than the gradient of a weighted sum (an aggregator
                such as GradDrop, a penalty, ``rescale``); in the first step, a gradient weighting does not
                weigh all the parameters.
            RuntimeError: one is inside of another.

        """
        refuse_other_functions(self._methods, self.rescale)
        if self._run.frozen:
            raise RuntimeError("multi.frozen() is inside of another one: leave the inner one out.")
        self._run.frozen = Frozen()
        try:
            yield
        finally:
            self._run.frozen = None

    def cut(self, tensors: Cuttable) -> Cuttable:
        """Mark, in the forward, where losses leave the encoder; features are then left out of the step. ::

            for stage in self.stages:
                z = multi.cut(stage(z))  # heads and the next stage take it
                levels.append(z)

        An identity. It makes features independent that are computed from each other (the stages of an
        encoder, the levels of a pyramid): at each, what the losses send there directly is merged, and what
        comes back through a later one passes. It costs no copy. Without gradients it does nothing; under
        ``torch.no_grad()``, an evaluation in between leaves no trace.

        Args:
            tensors: a tensor, or a sequence or mapping of tensors.

        Returns:
            The same numbers, to be used from here on.

        """
        return cut_apart(self.cuts, tensors)

    def explain(
        self, losses: Losses, features: Features | None = None, model: nn.Module | None = None
    ) -> Explanation:
        """Which parameters a step would merge, as words and a table by module; nothing is run or changed. ::

            print(multi.explain(losses, features=z, model=model))

        Where no features are given, or parameters that losses share are not (all) behind them, it proposes
        the tensors where the losses' graphs meet.

        Args:
            losses: as in `backward`.
            features: as in `backward`; left out, those that `cut` remembers, if any.
            model: whose parameters are named; without it, parameters go by number and shape.

        """
        with torch.enable_grad():
            return explain(losses, features, model, self.cuts.waiting)

    def set_progress(self, fraction: float) -> None:
        """Tell all methods which fraction of the training is done, in [0, 1]."""
        for method in self._methods.all:
            method.set_progress(fraction)

    def end_epoch(self) -> None:
        """Tell all methods that an epoch is over."""
        for method in self._methods.all:
            method.end_epoch()

    # ------------------------------------------------------------------ wiring

    @property
    def last(self) -> StepResult | None:
        """What the last step measured; None before the first."""
        return self._run.last

    @property
    def needs(self) -> Needs:
        """What all the methods together ask of a step."""
        return self._methods.needs

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the losses; None before the first step."""
        return self._methods.weighting.names

    def _wanted(self, measure: bool, skips: bool) -> Wanted:
        methods = self._methods
        if self._run.held:
            return Wanted((), Needs(), "none", False, skips, methods.weighting.names)
        return Wanted(methods.all, methods.needs, self.rescale, measure, skips, methods.weighting.names)

    def _ranks_of_step(self) -> Ranks:
        if self._run.ranks is None:
            self._run.ranks = ranks_of(self.distributed)
        return self._run.ranks

    def _step(self, checked: Checked, scale: LossScale, retain_graph: bool, measure: bool) -> Step:
        return Step(
            losses=checked.losses,
            features=checked.given.features,
            edges=checked.given.edges,
            params=checked.given.params,
            walk=checked.walk,
            plan=NOT_FINITE,
            scale=scale,
            ranks=self._ranks_of_step(),
            device=checked.device,
            weighting=self._methods.weighting,
            aggregator=self._methods.aggregator,
            penalties=self._methods.penalties,
            rescale=self.rescale,
            weights=[1.0] * len(checked.losses.names),
            retain_graph=retain_graph,
            nested=checked.given.nested,
            look_closely=measure or self._run.steps % LOOK_CLOSELY_EVERY == 0,
        )

    def _written(self, step: Step, outcome: Outcome, values: Tensor | None, due: list[Observer]) -> None:
        """The step was written: observers see it, methods learn from it."""
        self._run.steps += 1
        # Else the weights are the user's own, or no weights.
        if not self._methods.need_nothing and step.weighting.numbers == "weights":
            self.told.of_neglect(step.names, outcome.weights, step.weighting.label)
        for observer in due:
            observer.record(outcome, step.features)
        self._methods.learn(step, outcome, values)
        if not (step.losses.on_host or step.scale.skips):
            step.deferred.append(torch.isfinite(torch.stack(list(step.losses.held))).all())  # type: ignore[arg-type]
        self._run.deferred = step.deferred

    def _ask_deferred(self) -> None:
        """A device that was not waited for in the last step has its answer by now."""
        flags, self._run.deferred = self._run.deferred, []
        if not torch.stack(flags).all().item():
            raise NotFiniteError(
                "A loss or a gradient of the step before this one was not finite, and its gradient was "
                "written (on this device a step does not wait for its own numbers): go back to a checkpoint. "
                "With float16, pass grad_scaler= so that such steps are skipped."
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self._methods.check_saved(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _facts(step: Step, checked: Checked) -> Facts:
    zero_weight = 0.0 in step.weights
    if step.features:
        return Facts(True, bool(step.params), checked.separate, checked.why_not, zero_weight=zero_weight)
    return Facts(
        features=False,
        params=bool(step.params),
        exclusive=step.walk.exclusive_without(step.params),
        listened=step.walk.listened
        or (dist.is_available() and dist.is_initialized())
        or any(leaf._backward_hooks or leaf._post_accumulate_grad_hooks for leaf in step.walk.leaves),
        zero_weight=zero_weight,
    )
