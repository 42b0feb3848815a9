"""Arms: what a table compares. An arm is a method with its settings, or a change of the problem itself.

On the command line an arm is written ``name`` or ``name:option=value:option=value``. The lab's own arms are
in `BUILT_IN`; a problem may add arms or change these in its ``arms``. ``single`` means one arm per loss.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from manyloss.lab import checks
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
    the Problem that this arm sets before anything is built (``{"dropout": 0.5}``). ``selected`` limits the
    losses. ``search`` are values worth trying per option. ``requires`` names arms whose finished trial of the
    same seed it reads; ``"gradnorm:alpha={alpha}"`` fills in this arm's own options. With ``option_per_loss``
    every loss name is an option too. ``epochs`` names the attribute of the Problem that holds this arm's
    number of epochs. A ``shared`` arm is only ever a prerequisite (a teacher): one trial serves all seeds,
    and all studies whose folders lie side by side.
    """

    name: str
    summary: str
    method: Callable[..., MultiLoss | Trainer] = sum_of_losses
    options: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)
    selected: tuple[str, ...] | None = None
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    option_per_loss: float | None = None
    epochs: str | None = None
    shared: bool = False
    #: Options of the problem's constructor that change nothing in a shared arm.
    shared_despite: tuple[str, ...] = ("data_root",)


@dataclass(frozen=True)
class ChosenArm:
    """An arm with the options of one row. ``name`` is its one spelling, in tables and folders."""

    name: str
    arm: Arm
    options: Mapping[str, Any]
    requires: tuple[str, ...]

    @property
    def is_a_method_alone(self) -> bool:
        """Whether it changes nothing but the method, and needs no other trial: a script can have it."""
        return not (self.requires or self.arm.problem or self.arm.selected or self.arm.shared)

    def apply(self, problem: Problem) -> None:
        """Change the problem as this arm says."""
        for attribute, value in self.arm.problem.items():
            if not hasattr(problem, attribute):
                raise checks.unknown_attribute(self.name, attribute, problem)
            setattr(problem, attribute, value)
        if self.arm.selected is not None:
            problem.selected = self.arm.selected

    def build(self, context: ArmContext) -> MultiLoss | Trainer:
        """The MultiLoss of this row, or what it trains with in its place."""
        return self.arm.method(context, **self.options)


# -- the lab's own arms -----------------------------------------------------------------------------------


def _static(context: ArmContext, **weights: float) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.weighting import Static

    # A script's losses are known when it runs: those that were given a weight.
    return MultiLoss(Static({name: weights[name] for name in context.losses or weights}))


def _gradnorm(context: ArmContext, alpha: float, lr: float, initial: Any) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.weighting import GradNorm

    return MultiLoss(GradNorm(alpha=alpha, lr=lr, initial=initial))


def _gradnorm_static(context: ArmContext, alpha: float, lr: float, initial: Any) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.weighting import Static

    (gradnorm,) = context.prerequisites.values()
    return MultiLoss(Static(gradnorm["mean_weights"]))


def _uncertainty(
    context: ArmContext,  # noqa: ARG001
    kinds: Any,
    lr: float,
    normalize: Any,
) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.weighting import Uncertainty

    return MultiLoss(Uncertainty(kinds=kinds, lr=lr, normalize=normalize))


def _initial_loss(context: ArmContext) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.weighting import InitialLoss

    return MultiLoss(InitialLoss())


def _dwa(context: ArmContext, temperature: float) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.weighting import DWA

    return MultiLoss(DWA(temperature=temperature))


def _random(context: ArmContext) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.weighting import Random

    return MultiLoss(Random(seed=context.seed))


def _mgda(context: ArmContext, normalize: Any, rescale: Any) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.weighting import MGDA

    return MultiLoss(MGDA(normalize=normalize), rescale=rescale)


def _pcgrad(context: ArmContext, rescale: Any) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.weighting import PCGrad

    return MultiLoss(PCGrad(seed=context.seed), rescale=rescale)


def _iterative_pcgrad(context: ArmContext, rescale: Any) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.weighting import IterativePCGrad

    return MultiLoss(IterativePCGrad(seed=context.seed), rescale=rescale)


def _cagrad(context: ArmContext, c: float, rescale: Any) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.weighting import CAGrad

    return MultiLoss(CAGrad(c=c), rescale=rescale)


def _graddrop(
    context: ArmContext, leak: Any, k: float, sum_over_batch: bool, renormalize: bool, rescale: Any
) -> MultiLoss:
    from manyloss import MultiLoss
    from manyloss.aggregation import GradDrop

    aggregator = GradDrop(
        leak=leak, k=k, sum_over_batch=sum_over_batch, renormalize=renormalize, seed=context.seed
    )
    return MultiLoss(aggregator=aggregator, rescale=rescale)


def _cosreg(context: ArmContext, alpha: float, scale_by_loss: bool) -> MultiLoss:  # noqa: ARG001
    from manyloss import MultiLoss
    from manyloss.penalties import CosReg

    return MultiLoss(penalties=[CosReg(alpha=alpha, scale_by_loss=scale_by_loss)])


_GRADNORM_OPTIONS = {"alpha": 1.5, "lr": 0.025, "initial": "first"}
_GRADDROP_OPTIONS = {
    "leak": 0.0,
    "k": 1.0,
    "sum_over_batch": True,
    "renormalize": False,
    "rescale": "none",
}

BUILT_IN: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("equal", "The plain sum of the losses."),
        Arm("static", "Fixed weights: static:left=0.7:right=1.3.", _static, option_per_loss=1.0),
        Arm("random", "Random weights in every step (softmax of normals, times T).", _random),
        Arm(
            "uncertainty",
            "Kendall's learned uncertainties.",
            _uncertainty,
            {"kinds": "regression", "lr": 0.025, "normalize": False},
            search={"lr": (0.001, 0.025)},
        ),
        Arm("initial-loss", "Every loss divided by its first value.", _initial_loss),
        Arm(
            "dwa",
            "Dynamic weight average: by how fast each loss fell over the last epochs.",
            _dwa,
            {"temperature": 2.0},
            search={"temperature": (1.0, 2.0, 5.0)},
        ),
        Arm(
            "gradnorm",
            "GradNorm: learned weights that balance gradient norms by training rate.",
            _gradnorm,
            _GRADNORM_OPTIONS,
            search={"alpha": (0.06, 0.12, 0.5, 1.0, 1.5, 3.0)},
        ),
        Arm(
            "gradnorm-static",
            "Fixed weights: the time average of the same seed's GradNorm trial.",
            _gradnorm_static,
            _GRADNORM_OPTIONS,
            requires=("gradnorm:alpha={alpha}:lr={lr}:initial={initial}",),
        ),
        Arm(
            "mgda",
            "MGDA: the minimum-norm point of the gradients' convex hull.",
            _mgda,
            {"normalize": None, "rescale": "none"},
            search={"normalize": (None, "l2", "loss", "loss+")},
        ),
        Arm(
            "pcgrad",
            "PCGrad: project conflicting gradients off each other.",
            _pcgrad,
            {"rescale": "none"},
        ),
        Arm(
            "iterative-pcgrad",
            "PCGrad that updates in place as it goes.",
            _iterative_pcgrad,
            {"rescale": "none"},
        ),
        Arm(
            "cagrad",
            "CAGrad: the best worst-case loss decrease near the mean gradient.",
            _cagrad,
            {"c": 0.4, "rescale": "none"},
            search={"c": (0.2, 0.4, 0.6, 0.8)},
        ),
        Arm(
            "graddrop",
            "GradDrop: keep one sign per position, drawn by how pure the sign is.",
            _graddrop,
            _GRADDROP_OPTIONS,
            search={"leak": (0.0, 0.2, 0.4, 0.6, 0.8), "k": (0.25, 0.5, 1.0, 2.0)},
        ),
        Arm(
            "random-graddrop",
            "GradDrop with a fair coin for the sign (k = 0).",
            _graddrop,
            _GRADDROP_OPTIONS | {"k": 0.0},
        ),
        Arm(
            "cosreg",
            "CosReg: a penalty on the cosine between the losses' gradients.",
            _cosreg,
            {"alpha": 10.0, "scale_by_loss": False},
            search={"alpha": (0.1, 1.0, 10.0, 100.0)},
        ),
    )
}


def torchjd_arm(text: str) -> Arm | None:
    """``torchjd:UPGrad``, or just ``upgrad``: a method of TorchJD with its defaults."""
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

    def build(context: ArmContext) -> MultiLoss:
        from manyloss import MultiLoss
        from manyloss.interop import from_torchjd
        from manyloss.weighting import GradientWeighting

        made = from_torchjd(kind(), seed=context.seed)
        return MultiLoss(made) if isinstance(made, GradientWeighting) else MultiLoss(aggregator=made)

    return Arm(f"torchjd:{known[name]}", f"TorchJD's {known[name]}, with its defaults.", build)


# -- from text to arms ------------------------------------------------------------------------------------


def known_arms(problem: Problem) -> dict[str, Arm]:
    """Every arm of this problem by name: the built-in ones, one ``single:NAME`` per loss, its own."""
    singles = {
        f"single:{name}": Arm(f"single:{name}", f"Only the loss {name!r}.", selected=(name,))
        for name in problem.loss_names
    }
    return {**BUILT_IN, **singles, **problem.arms}


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
    if not fits and (peer := torchjd_arm(text)) is not None:
        return ChosenArm(peer.name, peer, {}, ())
    if not fits:
        name = ":".join(part for part in text.split(":") if "=" not in part)
        raise checks.unknown_arm(text, name, {*known, "single"})
    name = max(fits, key=len)
    arm = known[name]
    defaults = dict(arm.options)
    if arm.option_per_loss is not None:
        defaults |= dict.fromkeys(problem.loss_names, arm.option_per_loss)
    given = dict(_given_options(text[len(name) :], defaults))
    anything = arm.option_per_loss is not None and getattr(problem, "any_losses", False)
    for option in given:
        if option not in defaults and not anything:
            raise checks.unknown_option(name, option, defaults)
    options = {**defaults, **{option: _value(value) for option, value in given.items()}}
    defaults = {**dict.fromkeys(given), **defaults}
    changed = "".join(f":{o}={options[o]}" for o in sorted(options) if options[o] != defaults[o])
    requires = tuple(choose_arm(need.format(**options), problem).name for need in arm.requires)
    chosen = ChosenArm(name + changed, arm, options, requires)
    if not requires:
        _try_to_build(chosen, problem)
    return chosen


def _given_options(text: str, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """``:option=value:option=value`` as pairs.

    Names may hold ":", and a known one is found whole, with any "=" in it; a value ends at the first ":"
    outside of brackets.
    """
    longest_first = sorted(known, key=len, reverse=True)
    while text:
        text = text.removeprefix(":")
        option = next((name for name in longest_first if text.startswith(name + "=")), text.partition("=")[0])
        rest = text[len(option) + 1 :]
        depth, end = 0, len(rest)
        for place, letter in enumerate(rest):
            depth += (letter in "([{") - (letter in ")]}")
            if letter == ":" and depth == 0:
                end = place
                break
        yield option, rest[:end]
        text = rest[end:]


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _try_to_build(chosen: ChosenArm, problem: Problem) -> None:
    """Let a wrong value of an option be an error now, not thirty crashed trials later."""
    losses = chosen.arm.selected or problem.loss_names
    try:
        chosen.build(ArmContext(losses, seed=0, problem=problem))
    except (TypeError, ValueError) as error:
        raise checks.refused_options(chosen.name, error) from error
