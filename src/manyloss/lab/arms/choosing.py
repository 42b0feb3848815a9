"""From text to arms: ``gradnorm:alpha=0.5`` is an arm with the options of one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from manyloss import catalog
from manyloss.lab import checks
from manyloss.lab.arms.arm import Arm, ArmContext, ChosenArm
from manyloss.lab.arms.built_in import BUILT_IN, STATIC, average_of
from manyloss.lab.arms.peers import torchjd_arm
from manyloss.lab.optimizer import DEFAULTS, OptimizerSettings
from manyloss.lab.problem import Problem


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
    arm, name, settings = _named(text.strip(), problem)
    defaults = {**arm.options, **DEFAULTS}
    if arm.option_per_loss is not None:
        defaults |= dict.fromkeys(problem.loss_names, arm.option_per_loss)
    any_loss = arm.option_per_loss is not None and getattr(problem, "any_losses", False)
    given = _given(name, settings, defaults, anything=any_loss)
    changed = "".join(f":{o}={given[o]}" for o in sorted(given) if given[o] != defaults.get(o))
    try:
        optimizer = OptimizerSettings.of(defaults | given)
    except ValueError as error:
        raise checks.refused_options(name + changed, error) from error
    options = {option: value for option, value in (defaults | given).items() if option not in DEFAULTS}
    requires = tuple(_needed(need.format(**options), optimizer, problem) for need in arm.requires)
    chosen = ChosenArm(name + changed, arm, options, requires, optimizer)
    if not requires:
        _try_to_build(chosen, problem)
    return chosen


def _named(text: str, problem: Problem) -> tuple[Arm, str, str]:
    """The arm that ``text`` begins with, what it is called, and the rest: its settings."""
    known = known_arms(problem)
    fits = [name for name in known if text == name or text.startswith(name + ":")]
    if fits:
        name = max(fits, key=len)
        return known[name], name, text[len(name) :]
    written = ":".join(part for part in text.split(":") if "=" not in part)
    made = average_of(written, known) or torchjd_arm(written)
    if made is None or not text.startswith(written):
        raise checks.unknown_arm(text, written, {*known, "single"})
    return made, made.name, text[len(written) :]


def _given(name: str, settings: str, defaults: Mapping[str, Any], *, anything: bool) -> dict[str, Any]:
    """The options in ``settings``, ``:option=value:...``, by name; ``anything`` lets through unknown ones."""
    given = dict(catalog.options_in(settings, defaults))
    for option in given:
        if option not in defaults and not anything:
            raise checks.unknown_option(name, option, defaults)
    return {option: _value_of(value or "", defaults.get(option)) for option, value in given.items()}


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
