"""Named attacks: the ones that an evaluation runs by default, and AutoAttack."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manyloss import checks
from manyloss.restore import gradients_set_aside, modes_restored
from manyloss.robustness.attacks import (
    checked_logits,
    fgsm,
    ifgsm,
    least_likely_targets,
    pgd,
    random_noise,
    random_targets,
)

RunAttack = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]
ChooseTargets = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
#: The difference-of-logits ratio against a target looks at four classes.
AUTOATTACK_CLASSES = 4


@dataclass(frozen=True)
class Attack:
    """A named attack: `run(model, x, y, eps, seed)` returns images like x, inside the ball and [0, 1].

    kind: "one step", "iterated", "targeted" or "black box"; with `loss`, it says which of the verdict's
    tests read it. targets: of a targeted attack, `targets(model, x, y, seed)` are the classes [B] that it
    moves to; with them an evaluation also counts how often the target was missed.
    """

    name: str
    run: RunAttack
    kind: str
    loss: str = "cross_entropy"
    targets: ChooseTargets | None = None


def standard_attacks(
    *,
    steps: int = 10,
    pgd_steps: int = 20,
    restarts: int = 1,
    surrogate: nn.Module | None = None,
    norm: str = "linf",
) -> tuple[Attack, ...]:
    """The paper's attacks (iFGSM with `steps`), PGD with both losses, noise, and transfer from `surrogate`
    if given; all in the ball of `norm`, "linf" or "l2".
    """
    checks.one_of("norm", norm, checks.NORMS)

    def aimed(name: str, attack: Callable[..., Tensor], choose: ChooseTargets, **settings: Any) -> Attack:
        def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
            return attack(model, x, y, eps, targets=choose(model, x, y, seed), norm=norm, **settings)

        return Attack(name, run, "targeted", targets=choose)

    def descending(loss: str) -> RunAttack:
        return lambda model, x, y, eps, seed: pgd(
            model, x, y, eps, steps=pgd_steps, restarts=restarts, loss=loss, norm=norm, seed=seed
        )

    def one_step(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:  # noqa: ARG001
        return fgsm(model, x, y, eps, norm=norm)

    def iterated(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:  # noqa: ARG001
        return ifgsm(model, x, y, eps, steps=steps, norm=norm)

    def noise(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        return random_noise(model, x, y, eps, norm=norm, seed=seed)

    attacks = [
        Attack("FGSM", one_step, "one step"),
        Attack("iFGSM", iterated, "iterated"),
        Attack("PGD cross-entropy", descending("cross_entropy"), "iterated"),
        Attack("PGD margin", descending("margin"), "iterated", "margin"),
        aimed("FGSM random target", fgsm, _random_classes),
        aimed("FGSM least likely", fgsm, _least_likely),
        aimed("iFGSM random target", ifgsm, _random_classes, steps=steps),
        aimed("iFGSM least likely", ifgsm, _least_likely, steps=steps),
        Attack("noise", noise, "black box"),
    ]
    if surrogate is not None:
        attacks.append(Attack("transfer", _transfer(surrogate, pgd_steps, norm), "black box"))
    return tuple(attacks)


def _random_classes(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    with modes_restored(model):
        classes = checked_logits(model.eval(), x, y).shape[1]
    return random_targets(y, classes, seed=seed)


def _least_likely(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:  # noqa: ARG001
    return least_likely_targets(model, x, y)


def _transfer(surrogate: nn.Module, steps: int, norm: str) -> RunAttack:
    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:  # noqa: ARG001
        return pgd(surrogate, x, y, eps, steps=steps, loss="margin", norm=norm, seed=seed)

    return run


def auto_attack(norm: str = "linf") -> Attack:
    """AutoAttack (Croce and Hein 2020) through pyautoattack.

    Raises:
        ImportError: it is not installed.

    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError(
            f"autoattack=True needs pyautoattack ({error}); install it with `pip install manyloss[attacks]`."
        ) from error

    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        logging.getLogger("auto-attack").setLevel(logging.WARNING)
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < AUTOATTACK_CLASSES:
            raise ValueError(
                f"AutoAttack needs logits of {AUTOATTACK_CLASSES} classes at least; received {classes}. "
                "Leave it out: PGD with both losses works with two classes, too."
            )
        gpu = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpu), gradients_set_aside(model):
            ensemble = AutoAttack(model, norm=norm.capitalize(), eps=eps, seed=seed % 2**31, device=x.device)
            targets = min(ensemble.fab.n_target_classes, classes - 1)
            ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
            found = ensemble.run_standard_evaluation(x, y, batch_size=len(x))
        images: Tensor = found[0] if isinstance(found, tuple) else found
        return images.clamp(0.0, 1.0)

    return Attack("AutoAttack", run, "ensemble", "several")
