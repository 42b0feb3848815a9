"""A run of training, step by step: check, plan, run. `MultiLoss` is what a user sees of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from manyloss.checking import Checked, Wanted, check_step
from manyloss.distributed import Ranks, Setting, ranks_of
from manyloss.errors import NotFiniteError
from manyloss.exchange import PresentLosses
from manyloss.frozen import Frozen, refuse_other_functions
from manyloss.losses import Features, Losses, SharedParams
from manyloss.notices import Notices
from manyloss.plan import Facts, Needs, Plan, Read, plan
from manyloss.result import StepResult
from manyloss.scaling import LossScale
from manyloss.step_methods import Methods
from manyloss.strategies import RUN, Outcome, Step
from manyloss.strategies.plain import pass_on

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
class Settings:
    """How steps are made, whatever the methods; see `MultiLoss`."""

    rescale: Rescale = "none"
    measure_at: MeasureAt = "auto"
    distributed: Setting = "auto"
    read: Read = "auto"
    low_memory: bool = False


@dataclass
class Run:
    """The steps of one MultiLoss, and what is known of them. None of it is saved.

    Attributes:
        methods: weigh, merge and learn.
        settings: of all steps.
        observers: look at some of the steps.
        notices: what was warned of, once.
        ranks: of all steps; None before the first.
        met: names and order of the losses were compared with the other ranks.
        steps: that were written.
        deferred: flags of the last step on a device that was not waited for.
        last: what the last step measured.
        frozen: what is held, within ``MultiLoss.frozen``.

    """

    methods: Methods
    settings: Settings
    observers: list[Observer] = field(default_factory=list)
    notices: Notices = field(default_factory=Notices)
    ranks: Ranks | None = None
    met: bool = False
    steps: int = 0
    deferred: list[Tensor] = field(default_factory=list)
    last: StepResult | None = None
    frozen: Frozen | None = None

    def step(
        self,
        losses: Losses,
        features: Features | None,
        shared_params: SharedParams | None,
        grad_scaler: Any,
        measure: bool,
        retain_graph: bool,
        divide_by: float,
    ) -> StepResult:
        """One step, as `MultiLoss.backward` says."""
        if self.deferred:
            self._ask_deferred()
        held = self._held
        due = [] if held else [observer for observer in self.observers if observer.due()]
        skips = grad_scaler is not None and grad_scaler.is_enabled()
        wanted = self._wanted(measure or bool(due), skips)
        checked = check_step(losses, features, shared_params, wanted, self._ranks_of_step(), self.met)
        self.met = True
        if checked.walk.contains:
            self.notices.of_sums(checked.losses.names, checked.walk.contains)
        scale = LossScale.of(grad_scaler, checked.device).divided_by(divide_by)
        step = self._step(checked, scale, retain_graph, wanted.measure)
        if checked.finite and held:
            self.last = StepResult.of(step, held.step(step))
        elif checked.finite:
            self.last = self._take(step, checked, wanted, due)
        else:
            self.last = StepResult.of(step, pass_on(step))
        return self.last

    def _take(self, step: Step, checked: Checked, wanted: Wanted, due: list[Observer]) -> StepResult:
        """Weigh, plan and run; leave no trace in the methods when that fails or is skipped."""
        before = self.methods.begin(checked.given.names, step.ranks)
        outcome = None
        try:
            values = self.methods.weigh(step)
            step.plan = plan(
                wanted.needs,
                _facts(step, checked),
                measure=wanted.measure,
                virtual_layer=self.settings.measure_at == "virtual_layer",
                read=self.settings.read,
                low_memory=self.settings.low_memory,
            )
            if self.steps == 0 and step.plan.merged_at == "features":
                self.notices.of_partly_merged(step.walk.leaves, step.edges)
            if self.frozen:
                self.frozen.check_one_function(step, wanted.needs)
            for observer in due:
                observer.before(step.losses)
            outcome = RUN[step.plan.strategy](step)
        finally:
            if outcome is None or outcome.skipped:
                self.methods.undo(before)
        if not outcome.skipped:
            self._written(step, outcome, values, due)
            if self.frozen:
                self.frozen.hold(step.names, outcome)
        return StepResult.of(step, outcome)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """The weights of the next step hold for all that follow; see `MultiLoss.frozen`."""
        refuse_other_functions(self.methods, self.settings.rescale)
        if self.frozen:
            raise RuntimeError("multi.frozen() is inside of another one: leave the inner one out.")
        self.frozen = Frozen()
        try:
            yield
        finally:
            self.frozen = None

    @property
    def _held(self) -> Frozen | None:
        """What is held, once there is something."""
        return self.frozen if self.frozen is not None and self.frozen.weights is not None else None

    def _wanted(self, measure: bool, skips: bool) -> Wanted:
        methods = self.methods
        if self._held:
            return Wanted((), Needs(), "none", False, skips, methods.weighting.names)
        return Wanted(
            methods.all, methods.needs, self.settings.rescale, measure, skips, methods.weighting.names
        )

    def _ranks_of_step(self) -> Ranks:
        if self.ranks is None:
            self.ranks = ranks_of(self.settings.distributed)
        return self.ranks

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
            weighting=self.methods.weighting,
            aggregator=self.methods.aggregator,
            penalties=self.methods.penalties,
            rescale=self.settings.rescale,
            weights=[1.0] * len(checked.losses.names),
            retain_graph=retain_graph,
            nested=checked.given.nested,
            look_closely=measure or self.steps % LOOK_CLOSELY_EVERY == 0,
        )

    def _written(self, step: Step, outcome: Outcome, values: Tensor | None, due: list[Observer]) -> None:
        """The step was written: observers see it, methods learn from it."""
        self.steps += 1
        # Else the weights are the user's own, or no weights.
        if not self.methods.need_nothing and step.weighting.numbers == "weights":
            self.notices.of_neglect(step.names, outcome.weights, step.weighting.label)
        for observer in due:
            observer.record(outcome, step.features)
        self.methods.learn(step, outcome, values)
        if not (step.losses.on_host or step.scale.skips):
            step.deferred.append(torch.isfinite(torch.stack(list(step.losses.held))).all())  # type: ignore[arg-type]
        self.deferred = step.deferred

    def _ask_deferred(self) -> None:
        """A device that was not waited for in the last step has its answer by now."""
        flags, self.deferred = self.deferred, []
        if not torch.stack(flags).all().item():
            raise NotFiniteError(
                "A loss or a gradient of the step before this one was not finite, and its gradient was "
                "written (on this device a step does not wait for its own numbers): go back to a checkpoint. "
                "With float16, pass grad_scaler= so that such steps are skipped."
            )


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
