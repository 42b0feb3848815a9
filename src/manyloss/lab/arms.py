"""Arms: what a table compares. An arm is a method with its settings, or a change of the problem itself.

On the command line an arm is written ``name`` or ``name:option=value:option=value``. The methods of the
library are arms by themselves, in `BUILT_IN`; a problem may add arms or change these in its ``arms``.
``single`` means one arm per loss, and ``NAME-static`` holds the average weights of the method NAME. Every
arm has two options more, ``optimizer.lr_factor`` and ``optimizer.weight_decay``, that change the problem's
own optimiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyloss import catalog
from manyloss.checks import one_of, positive
from manyloss.lab import checks
from manyloss.lab.optimizer import DEFAULTS, OptimizerSettings
from manyloss.lab.runs import storage

if TYPE_CHECKING:
    from manyloss import MultiLoss
    from manyloss.lab.problem import Problem
    from manyloss.lab.training import Trainer


@dataclass(frozen=True)
class ArmContext:
    """What a method may read when it is built."""

    losses: tuple[str, ...]
    seed: int
    #: Prerequisite arm, as written in ``requires`` -> its result.json (which holds ``mean_weights``).
    prerequisites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Prerequisite arm -> its checkpoint.pt.
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    #: The problem, with this arm's changes.
    problem: Problem | None = None
    #: The model to train; one without parameters stands in while only the options are tried.
    model: nn.Module = field(default_factory=nn.Identity)
    device: torch.device | str = "cpu"

    def weights_of(self, needed: str) -> dict[str, Tensor]:
        """The state dict of a prerequisite's model, as it was tested."""
        saved = storage.load_tensors(self.checkpoints[needed], self.device)
        weights: dict[str, Tensor] = saved["state"]["best"]["model"]
        return weights


def sum_of_losses(context: ArmContext) -> MultiLoss:  # noqa: ARG001
    """The plain sum: what an arm that only changes the problem trains with."""
    from manyloss import MultiLoss

    return MultiLoss()


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    ``method(context, **options)`` builds the MultiLoss, or another `Trainer`. ``options`` are its settings
    with their defaults, the only ones that ``name:option=value`` may change. ``problem`` are attributes of
    the Problem that this arm sets before anything is built (``{"dropout": 0.5}``); ``sets`` are options whose
    values are such attributes (``{"norm": "clip_gradients"}``). ``selected`` limits the losses. ``search``
    are values worth trying per option. ``requires`` names arms whose finished trial of the same seed it
    reads; ``"gradnorm:alpha={alpha}"`` fills in this arm's own options. With ``option_per_loss`` every loss
    name is an option too. ``epochs`` names the attribute of the Problem that holds this arm's number of
    epochs. ``later`` are options that came when trials without them had been kept: a trial's settings leave
    them out at their default, so that its folder stays the same trial's. A ``shared`` arm is only ever a
    prerequisite (a teacher): one trial serves all seeds, and all studies whose folders lie side by side.
    With ``averages`` it holds the weights of the method that it requires, and has that one's options.
    """

    name: str
    summary: str
    method: Callable[..., MultiLoss | Trainer] = sum_of_losses
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    selected: tuple[str, ...] | None = None
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    option_per_loss: float | None = None
    epochs: str | None = None
    later: tuple[str, ...] = ()
    averages: bool = False
    shared: bool = False
    #: Options of the problem's constructor that change nothing in a shared arm.
    shared_despite: tuple[str, ...] = ("data_root",)

    def with_defaults(self, summary: str = "", **options: Any) -> Arm:
        """The same arm with other defaults of its options."""
        return replace(self, summary=summary or self.summary, options={**self.options, **options})


@dataclass(frozen=True)
class ChosenArm:
    """An arm with the options of one row. ``name`` is its one spelling, in tables and folders."""

    name: str
    arm: Arm
    options: Mapping[str, Any]
    requires: tuple[str, ...]
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    @property
    def is_a_method_alone(self) -> bool:
        """Whether it changes nothing but the method, and needs no other trial: a script can have it."""
        return not (self.requires or self.changes or self.arm.selected or self.arm.shared)

    @property
    def changes(self) -> dict[str, Any]:
        """The attributes of the problem that this row sets."""
        given = {attribute: self.options[option] for option, attribute in self.arm.sets.items()}
        return {**self.arm.problem, **given}

    @property
    def own_options(self) -> dict[str, Any]:
        """The options that a trial's settings name beside `changes`."""
        arm = self.arm
        return {
            option: value
            for option, value in self.options.items()
            if option not in arm.sets and (option not in arm.later or value != arm.options[option])
        }

    def apply(self, problem: Problem) -> None:
        """Change the problem as this arm says."""
        for attribute, value in self.changes.items():
            if not hasattr(problem, attribute):
                raise checks.unknown_attribute(self.name, attribute, problem)
            setattr(problem, attribute, value)
        if self.arm.selected is not None:
            problem.selected = self.arm.selected

    def build(self, context: ArmContext) -> MultiLoss | Trainer:
        """The MultiLoss of this row, or what it trains with in its place."""
        return self.arm.method(context, **self.options)


# -- the lab's own arms -----------------------------------------------------------------------------------


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

        (method,) = context.prerequisites.values()
        weights = method["mean_weights"]
        unit = fmean(weights.values()) if of_gradients else 1.0
        return MultiLoss(Static({name: weight / unit for name, weight in weights.items()}))

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


def torchjd_arm(text: str) -> Arm | None:
    """``torchjd:Krum``, or just ``krum``: a method of TorchJD, whose plain arguments are the options."""
    name = text.removeprefix("torchjd:").lower()
    try:
        from torchjd import aggregation
    except ImportError:
        if text.startswith("torchjd:"):
            raise checks.no_torchjd(text) from None
        return None
    known = {item.lower(): item for item in aggregation.__all__ if not item.endswith("Weighting")}
    if name not in known or known[name] == "Aggregator":
        return None
    kind = getattr(aggregation, known[name])

    def build(context: ArmContext, **options: Any) -> MultiLoss:
        from manyloss.interop import from_torchjd

        given = {option: value for option, value in options.items() if value is not None}
        return catalog.placed(from_torchjd(kind(**given), seed=context.seed))

    options = _plain_arguments(kind)
    return Arm(f"torchjd:{known[name]}", f"TorchJD's {known[name]}.", build, options, later=tuple(options))


def _plain_arguments(kind: type) -> dict[str, Any]:
    """The arguments of a class that are a number, a word or a truth value; None for one without a default."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        says = parameter.annotation
        says = says if isinstance(says, str) else getattr(says, "__name__", str(says))
        has_plain_default = isinstance(parameter.default, bool | int | float | str)
        if has_plain_default or says.removesuffix(" | None") in ("bool", "int", "float", "str"):
            found[name] = None if parameter.default is parameter.empty else parameter.default
    return found


# -- from text to arms ------------------------------------------------------------------------------------


def known_arms(problem: Problem) -> dict[str, Arm]:
    """Every arm of this problem by name: the built-in ones, one ``single:NAME`` per loss, its own."""
    singles = {
        f"single:{name}": Arm(f"single:{name}", f"Only the loss {name!r}.", selected=(name,))
        for name in problem.loss_names
    }
    return {**BUILT_IN, **singles, **problem.arms}


def is_of_an_arm(option: str) -> bool:
    """Whether an option of a run is an arm's, as ``gradnorm.alpha`` is, and not the problem's."""
    return "." in option


def options_for(arm: ChosenArm, options: Mapping[str, Any], problem: Problem) -> dict[str, Any]:
    """The options of a run that decide an arm: the problem's, its own, those of the arms that it needs."""

    def concerned(chosen: ChosenArm) -> set[str]:
        return {chosen.arm.name}.union(*(concerned(choose_arm(each, problem)) for each in chosen.requires))

    names = concerned(arm)
    return {
        name: value
        for name, value in options.items()
        if not is_of_an_arm(name) or name.partition(".")[0] in names
    }


def set_defaults(problem: Problem, options: Mapping[str, Any]) -> None:
    """Give arms of this problem other defaults: ``{"gradnorm.alpha": 0.5}``. Their names stay as they are.

    Raises:
        LabError: there is no such arm, or it has no such option.

    """
    for name, value in options.items():
        known = known_arms(problem)
        arm, _, option = name.partition(".")
        if arm not in known:
            raise checks.unknown_arm(name, arm, known)
        if option not in known[arm].options:
            raise checks.unknown_option(arm, option, known[arm].options)
        problem.arms = {**problem.arms, arm: known[arm].with_defaults(**{option: value})}


def choose_arms(texts: Iterable[str], problem: Problem) -> list[ChosenArm]:
    """The arms written in ``texts``, in order and without repeats; ``single`` becomes one per loss."""
    chosen: dict[str, ChosenArm] = {}
    for text in texts:
        names = [f"single:{name}" for name in problem.loss_names] if text == "single" else [text]
        for name in names:
            arm = choose_arm(name, problem)
            chosen[arm.name] = arm
    return list(chosen.values())


def choose_arm(text: str, problem: Problem) -> ChosenArm:
    """The arm written as ``name`` or ``name:option=value:...``; an error that offers the closest name."""
    known = known_arms(problem)
    text = text.strip()
    fits = [name for name in known if text == name or text.startswith(name + ":")]
    written = max(fits, key=len, default=":".join(part for part in text.split(":") if "=" not in part))
    made = None if fits else average_of(written, known) or torchjd_arm(written)
    if not fits and (made is None or not text.startswith(written)):
        raise checks.unknown_arm(text, written, {*known, "single"})
    arm = made or known[written]
    name = arm.name if made else written
    defaults = dict(arm.options)
    if arm.option_per_loss is not None:
        defaults |= dict.fromkeys(problem.loss_names, arm.option_per_loss)
    defaults |= DEFAULTS
    given = {option: value or "" for option, value in catalog.options_in(text[len(written) :], defaults)}
    anything = arm.option_per_loss is not None and getattr(problem, "any_losses", False)
    for option in given:
        if option not in defaults and not anything:
            raise checks.unknown_option(name, option, defaults)
    options = {
        **defaults,
        **{option: _value_of(text, defaults.get(option)) for option, text in given.items()},
    }
    defaults = {**dict.fromkeys(given), **defaults}
    changed = "".join(f":{o}={options[o]}" for o in sorted(options) if options[o] != defaults[o])
    try:
        optimizer = OptimizerSettings.of(options)
    except ValueError as error:
        raise checks.refused_options(name + changed, error) from error
    options = {option: value for option, value in options.items() if option not in DEFAULTS}
    requires = tuple(_needed(need.format(**options), optimizer, problem) for need in arm.requires)
    chosen = ChosenArm(name + changed, arm, options, requires, optimizer)
    if not requires:
        _try_to_build(chosen, problem)
    return chosen


def _value_of(text: str, default: Any) -> Any:
    """A setting's value; where the others are words, "none" is one of them."""
    value = catalog.value_of(text)
    return text if value is None and isinstance(default, str) else value


def average_weights_of(text: str, problem: Problem) -> str:
    """The arm that holds the average weights of this one: of ``cagrad:c=0.6``, ``cagrad-static:c=0.6``."""
    arm = choose_arm(text, problem)
    return choose_arm(arm.arm.name + STATIC + arm.name.removeprefix(arm.arm.name), problem).name


def _needed(text: str, optimizer: OptimizerSettings, problem: Problem) -> str:
    """A required arm, trained as the one that needs it; a shared one is everybody's and stays as it is."""
    needed = choose_arm(text, problem)
    return needed.name if needed.arm.shared else choose_arm(text + optimizer.text, problem).name


def _try_to_build(chosen: ChosenArm, problem: Problem) -> None:
    """Let a wrong value of an option be an error now, not thirty crashed trials later."""
    losses = chosen.arm.selected or problem.loss_names
    try:
        chosen.build(ArmContext(losses, seed=0, problem=problem))
    except (TypeError, ValueError) as error:
        raise checks.refused_options(chosen.name, error) from error
