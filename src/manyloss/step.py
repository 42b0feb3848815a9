"""MultiLoss: one line in place of ``sum(losses).backward()``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from manyloss import checks
from manyloss.aggregation import Aggregator, Sum
from manyloss.cuts import Cuts, Cuttable, cut_apart
from manyloss.distributed import Setting, check_setting
from manyloss.explain import Explanation, explain
from manyloss.losses import Features, Losses, SharedParams
from manyloss.notices import Notices
from manyloss.penalties import Penalty
from manyloss.plan import Needs, Read
from manyloss.precision import usual_modes
from manyloss.result import StepResult
from manyloss.run import MeasureAt, Observer, Rescale, Run, Settings
from manyloss.step_methods import Methods
from manyloss.total import total
from manyloss.weighting import Equal, Weighting


class MultiLoss(nn.Module):
    """One line in place of ``sum(losses).backward()``.

    Args:
        weighting: one number per loss; equal weights when None.
        aggregator: merges the per-loss gradients; their sum when None.
        penalties: differentiable scalars of the gradients that join the objective.
        rescale: "sum_norm" scales the merged gradient to the norm of the unweighted sum of the gradients
            (factor at most 100, zero stays zero), so that methods can be compared at one learning rate.
        measure_at: "auto" measures at ``shared_params`` if they are given, else where gradients are merged;
            "virtual_layer" at the virtual layer of the features (GradDrop 2020, eq. 3), for losses that come
            from separate rows of the batch.
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
        TypeError, ValueError: something that is no method, methods that exclude each other, or a setting that
            has no such value.

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
        checks.flag("low_memory", low_memory)
        check_setting(distributed)
        if rescale != "none" and self.aggregator.keeps_norm:
            raise ValueError(
                f"rescale={rescale!r} and {type(self.aggregator).__name__}(renormalize=True) both fix the "
                "norm of the merged gradient: use one of them."
            )
        self.penalties = nn.ModuleList(penalties)
        methods = Methods(self.weighting, self.aggregator, penalties, rescale != "none")
        self._run = Run(methods, Settings(rescale, measure_at, distributed, read, low_memory))
        self.cuts = Cuts()

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
            BatchSeparatedError: a method would compare gradients that lie on separate rows of the features.
            NoDoubleBackwardError: a penalty differentiates twice what can be differentiated once.
            RankError: another rank was refused; nothing was changed.

        """
        if divide_by != 1.0:
            checks.positive("divide_by", divide_by)
        features = self.cuts.take(features)
        with usual_modes():
            return self._run.step(
                losses, features, shared_params, grad_scaler, measure, retain_graph, divide_by
            )

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

    def frozen(self) -> AbstractContextManager[None]:
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
        return self._run.hold()

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
        for method in self._run.methods.all:
            method.set_progress(fraction)

    def end_epoch(self) -> None:
        """Tell all methods that an epoch is over."""
        for method in self._run.methods.all:
            method.end_epoch()

    # ------------------------------------------------------------------ wiring

    @property
    def last(self) -> StepResult | None:
        """What the last step measured; None before the first."""
        return self._run.last

    @property
    def settings(self) -> Settings:
        """How its steps are made, whatever the methods."""
        return self._run.settings

    @property
    def observers(self) -> list[Observer]:
        """What looks at some of the steps, such as a ConflictRecorder."""
        return self._run.observers

    @property
    def notices(self) -> Notices:
        """What this run has warned of."""
        return self._run.notices

    @property
    def needs(self) -> Needs:
        """What all the methods together ask of a step."""
        return self._run.methods.needs

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the losses; None before the first step."""
        return self._run.methods.weighting.names

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self._run.methods.check_saved(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
