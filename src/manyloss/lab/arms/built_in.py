"""The arms that every problem has: the library's methods, held average weights, and some of the lab's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from manyloss import catalog
from manyloss.checks import one_of, positive
from manyloss.lab import checks
from manyloss.lab.arms.arm import Arm, ArmContext, sum_of_losses

if TYPE_CHECKING:
    from manyloss import MultiLoss


def _arm_of(info: catalog.MethodInfo) -> Arm:
    """A method of the library as a row; what it does to the norm of the step can be undone by ``rescale``."""

    def build(context: ArmContext, rescale: str = "none", **options: Any) -> MultiLoss:
        return catalog.placed(catalog.build(info, options, context.seed), rescale=rescale)

    def build_per_loss(context: ArmContext, **values: float) -> MultiLoss:
        assert info.per_loss is not None
        # A script's losses are known when it runs: those that were given a value.
        options: dict[str, Any] = {info.per_loss: {name: values[name] for name in context.losses or values}}
        return build(context, **options)

    if info.per_loss is not None:
        return Arm(info.name, info.summary, build_per_loss, option_per_loss=1.0)
    merges = info.family in ("gradient weighting", "aggregator")
    options = {**info.options, "rescale": "none"} if merges else info.options
    return Arm(info.name, info.summary, build, options, search=info.search)


#: What moves GradNorm's w, by the value of ``weights_optimizer``; Adam is its own.
WEIGHTS_OPTIMIZERS = {"adam": None, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}


def _gradnorm(
    context: ArmContext,  # noqa: ARG001
    lr: float = 0.025,
    weights_optimizer: str = "adam",
    **options: Any,
) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.weighting import GradNorm

    one_of("weights_optimizer", weights_optimizer, tuple(WEIGHTS_OPTIMIZERS))
    other = WEIGHTS_OPTIMIZERS[weights_optimizer]
    return MultiLoss(GradNorm(lr=lr, optimizer=other and partial(other, lr=lr), **options))


def _clipped(context: ArmContext, norm: float) -> MultiLoss:
    positive("norm", norm)
    return sum_of_losses(context)


def _both(first: catalog.MethodInfo, second: catalog.MethodInfo) -> Callable[..., MultiLoss]:
    """Two methods in one step; each takes the options that are its own."""

    def build(context: ArmContext, **options: Any) -> MultiLoss:
        own = (
            catalog.build(info, {o: value for o, value in options.items() if o in info.options}, context.seed)
            for info in (first, second)
        )
        return catalog.placed(*own)

    return build


#: ``cagrad-static`` is CAGrad's average weights, held; only methods of these families have weights.
STATIC = "-static"
_GRADIENT_WEIGHTING = "gradient weighting"
_WEIGHING = ("loss weighting", _GRADIENT_WEIGHTING)


def _averaged(arm: Arm) -> Arm:
    """Fixed weights in place of a method's: whether it is the weights that help, or that they change.

    Those of a method that weighs gradients keep their proportions, at a mean of 1: a single step of nearly
    opposed gradients may have weights so large that they decide the average, and its own step is not so long.
    """
    of_gradients = catalog.methods()[arm.name].family == _GRADIENT_WEIGHTING

    def build(context: ArmContext, **options: Any) -> MultiLoss:  # noqa: ARG001
        from manyloss import MultiLoss
        from manyloss.weighting import Static

        ((name, method),) = context.prerequisites.items()
        weights = method["mean_weights"]
        if min(weights.values()) < 0:
            raise checks.average_below_zero(name, weights)
        unit = fmean(weights.values()) if of_gradients else 1.0
        return MultiLoss(Static({loss: weight / unit for loss, weight in weights.items()}))

    scaled = ", at a mean of 1" if of_gradients else ""
    options = "".join(f":{option}={{{option}}}" for option in arm.options)
    return replace(
        arm,
        name=arm.name + STATIC,
        summary=f"Fixed weights: the time average of the same seed's {arm.name} trial{scaled}.",
        method=build,
        requires=(arm.name + options,),
        averages=True,
    )


#: "sum" is "equal", the penalty needs a weight; the others ask for more: residuals, a second method.
_NO_ARM_OF_THEIR_OWN = ("sum", "gradient-penalty", "ntk", "alignment")


def _built_in() -> dict[str, Arm]:
    known = catalog.methods()
    arms = {name: _arm_of(info) for name, info in known.items() if name not in _NO_ARM_OF_THEIR_OWN}
    gradnorm, graddrop = arms["gradnorm"], arms["graddrop"]
    arms["gradnorm"] = replace(
        gradnorm.with_defaults(weights_optimizer="adam"), method=_gradnorm, later=("weights_optimizer",)
    )

    def some(arm: Arm, *options: str) -> dict[str, Any]:
        return {option: arm.options[option] for option in options}

    dropped = some(graddrop, "leak", "k", "sum_over_batch")
    more = (
        _averaged(replace(gradnorm, options=some(gradnorm, "alpha", "lr", "initial"))),
        Arm(
            "random-graddrop",
            "GradDrop with a fair coin for the sign (k = 0).",
            graddrop.method,
            {**graddrop.options, "k": 0.0},
        ),
        Arm(
            "gradnorm-graddrop",
            "GradNorm's weights, then GradDrop.",
            _both(known["gradnorm"], known["graddrop"]),
            {**some(gradnorm, "alpha", "lr"), **dropped},
            search={**gradnorm.search, **graddrop.search},
        ),
        Arm(
            "mgda-graddrop",
            "MGDA's weights, then GradDrop.",
            _both(known["mgda"], known["graddrop"]),
            dropped,
            search=graddrop.search,
        ),
        Arm(
            "clipping",
            "The plain sum, the norm of its whole gradient clipped.",
            _clipped,
            {"norm": 1.0},
            sets={"norm": "clip_gradients"},
            search={"norm": (0.1, 1.0, 10.0)},
        ),
        replace(
            _arm_of(known["gradient-penalty"]),
            summary="The plain sum with a penalty on the squared norm of its gradient.",
            options={"weight": 0.001},
        ),
    )
    return arms | {arm.name: arm for arm in more}


BUILT_IN: dict[str, Arm] = _built_in()


def average_of(text: str, known: Mapping[str, Arm]) -> Arm | None:
    """``cagrad-static``: the weights of a method that has some, averaged over its training and held."""
    name = text.removesuffix(STATIC)
    if name == text or name not in known:
        return None
    info, arm = catalog.methods().get(name), known[name]
    if info is None or info.family not in _WEIGHING or arm.requires or arm.option_per_loss is not None:
        raise checks.no_weights_to_hold(text, name)
    return _averaged(arm)
