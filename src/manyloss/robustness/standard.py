"""Named attacks: the ones that an evaluation runs unless told otherwise, and AutoAttack."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
#: The difference-of-logits ratio against a target looks at four classes.
AUTOATTACK_CLASSES = 4


@dataclass(frozen=True)
class Attack:
    """A named attack: `run(model, x, y, eps, seed)` returns images like x, inside the ball and [0, 1].

    kind: "one step", "iterated", "targeted" or "black box"; with `loss`, it says which of the verdict's
    tests read it.
    """

    name: str
    run: RunAttack
    kind: str
    loss: str = "cross_entropy"


def standard_attacks(
    *, steps: int = 10, pgd_steps: int = 20, restarts: int = 1, surrogate: nn.Module | None = None
) -> tuple[Attack, ...]:
    """The paper's attacks (iFGSM with `steps`), PGD with both losses, noise, and transfer from `surrogate`
    if given.
    """

    def aimed_at_random(attack: Callable[..., Tensor], **settings: int) -> RunAttack:
        def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
            with modes_restored(model):
                classes = checked_logits(model.eval(), x, y).shape[1]
            return attack(model, x, y, eps, targets=random_targets(y, classes, seed=seed), **settings)

        return run

    def aimed_at_least_likely(attack: Callable[..., Tensor], **settings: int) -> RunAttack:
        def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:  # noqa: ARG001
            return attack(model, x, y, eps, targets=least_likely_targets(model, x, y), **settings)

        return run

    def descending(loss: str) -> RunAttack:
        return lambda model, x, y, eps, seed: pgd(
            model, x, y, eps, steps=pgd_steps, restarts=restarts, loss=loss, seed=seed
        )

    attacks = [
        Attack("FGSM", lambda model, x, y, eps, seed: fgsm(model, x, y, eps), "one step"),  # noqa: ARG005
        Attack("iFGSM", lambda model, x, y, eps, seed: ifgsm(model, x, y, eps, steps=steps), "iterated"),  # noqa: ARG005
        Attack("PGD cross-entropy", descending("cross_entropy"), "iterated"),
        Attack("PGD margin", descending("margin"), "iterated", "margin"),
        Attack("FGSM random target", aimed_at_random(fgsm), "targeted"),
        Attack("FGSM least likely", aimed_at_least_likely(fgsm), "targeted"),
        Attack("iFGSM random target", aimed_at_random(ifgsm, steps=steps), "targeted"),
        Attack("iFGSM least likely", aimed_at_least_likely(ifgsm, steps=steps), "targeted"),
        Attack(
            "noise", lambda model, x, y, eps, seed: random_noise(model, x, y, eps, seed=seed), "black box"
        ),
    ]
    if surrogate is not None:
        attacks.append(Attack("transfer", _transfer(surrogate, pgd_steps), "black box"))
    return tuple(attacks)


def _transfer(surrogate: nn.Module, steps: int) -> RunAttack:
    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:  # noqa: ARG001
        return pgd(surrogate, x, y, eps, steps=steps, loss="margin", seed=seed)

    return run


def auto_attack() -> Attack:
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
            ensemble = AutoAttack(model, norm="Linf", eps=eps, seed=seed % 2**31, device=x.device)
            targets = min(ensemble.fab.n_target_classes, classes - 1)
            ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
            found = ensemble.run_standard_evaluation(x, y, batch_size=len(x))
        images: Tensor = found[0] if isinstance(found, tuple) else found
        return images.clamp(0.0, 1.0)

    return Attack("AutoAttack", run, "ensemble", "several")
