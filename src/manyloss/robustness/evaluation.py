"""Accuracy under attack, never without the verdict on masking."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.input_gradients import gradient_of_score, ordinary
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
from manyloss.robustness.masking import MaskingVerdict, masking_verdict

RunAttack = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]
Progress = Callable[[int, int | None, str], None]
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


@dataclass(frozen=True)
class RobustnessReport:
    """Accuracies in [0, 1]; targeted rows count the TRUE label too. `curves`: attack -> eps -> accuracy.

    `robust` [N] says which examples survived every attack, in the order of the data; `worst_case_accuracy`
    is its mean.
    """

    eps: float
    examples: int
    clean_accuracy: float
    accuracy: Mapping[str, float]
    worst_case_accuracy: float
    robust: Tensor
    curves: Mapping[str, Mapping[float, float]]
    zero_gradients: float
    verdict: MaskingVerdict
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Everything but the per-example tensor, ready for JSON."""
        return {
            "eps": self.eps,
            "eps_255": self.eps * 255,
            "examples": self.examples,
            "clean_accuracy": self.clean_accuracy,
            "accuracy": dict(self.accuracy),
            "worst_case_accuracy": self.worst_case_accuracy,
            "curves": {
                name: {str(eps): value for eps, value in curve.items()} for name, curve in self.curves.items()
            },
            "zero_gradients": self.zero_gradients,
            "masking": {
                "suspected": self.verdict.suspected,
                "reasons": list(self.verdict.reasons),
                "measured": dict(self.verdict.measured),
            },
            "seed": self.seed,
        }

    def __str__(self) -> str:
        rows = {"clean": self.clean_accuracy, **self.accuracy, "worst case of all": self.worst_case_accuracy}
        width = max(map(len, rows))
        lines = [f"{self.examples} examples, eps = {self.eps:g} ({in_255(self.eps)})"]
        lines += [f"  {name:<{width}}  {value:7.2%}" for name, value in rows.items()]
        for name, curve in self.curves.items():
            points = ", ".join(f"{eps:g} ({in_255(eps)}): {value:.1%}" for eps, value in curve.items())
            lines.append(f"  {name} over eps: {points}")
        return "\n".join([*lines, f"Verdict: {self.verdict}."])


def in_255(eps: float) -> str:
    """Write eps as the other convention does: 0.1 -> "25.5/255"."""
    return f"{eps * 255:.4g}/255"


class _MeanOfDraws(nn.Module):
    """A random model, as the mean of its logits over `repeats` draws; attacks follow the mean gradient."""

    def __init__(self, model: nn.Module, repeats: int) -> None:
        super().__init__()
        self.model = model
        self.repeats = repeats

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.model(x) for _ in range(self.repeats)]).mean(0)


def _draws_random_numbers(model: nn.Module, x: Tensor) -> bool:
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(x), model(x)
    moved = not torch.equal(before, torch.get_rng_state())
    scale = first.abs().amax().clamp(min=1.0)
    return moved or not bool(((first - second).abs().amax() <= 1e-4 * scale).item())


def _batches(data: Any, labels: Tensor | None, batch_size: int) -> tuple[Iterable[Any], int | None]:
    """Pairs (x, y), and of how many examples in all, where that is known."""
    if labels is None and isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor):
        data, labels = data
    if labels is not None:
        checks.images(data, (0.0, 1.0))
        if len(data) != len(labels):
            raise ValueError(f"data holds {len(data)} examples and labels {len(labels)}: one label for each.")
        return zip(torch.split(data, batch_size), torch.split(labels, batch_size), strict=True), len(data)
    try:
        total = len(data.dataset)
    except (AttributeError, TypeError):
        total = None
    return data, total


def _pair(batch: object) -> tuple[Tensor, Tensor]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        x, y = batch
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
    raise ValueError(f"data must yield pairs (x, y) of tensors; received {type(batch).__name__}.")


@dataclass(frozen=True)
class _Plan:
    """What is run on every batch: the attacks at eps, and those of the curves at every radius."""

    attacks: tuple[Attack, ...]
    swept: tuple[Attack, ...]
    eps: float
    radii: tuple[float, ...]
    seed: int


#: What is counted beside the attacks, whose keys are pairs (name, radius).
_CLEAN, _NONZERO = "clean", "nonzero"


@dataclass
class _Tally:
    """Right answers on clean images, per attack and per radius of the curves, batch after batch."""

    right: dict[Hashable, list[Tensor]] = field(default_factory=dict)

    def add(self, key: Hashable, right: Tensor) -> None:
        self.right.setdefault(key, []).append(right.cpu())

    def all(self, key: Hashable) -> Tensor:
        return torch.cat(self.right[key])

    def mean(self, key: Hashable) -> float:
        return float(self.all(key).double().mean())


def evaluate(
    model: nn.Module,
    data: Any,
    labels: Tensor | None = None,
    *,
    eps: float,
    attacks: Sequence[Attack] | None = None,
    surrogate: nn.Module | None = None,
    sweep: Sequence[float] = (),
    sweep_attacks: Sequence[str] = ("FGSM", "PGD cross-entropy", "PGD margin"),
    autoattack: bool = False,
    repeats: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | bool | None = None,
) -> RobustnessReport:
    """Attack a model and say how far to trust the result.

    Args:
        model: x [B, ...] in [0, 1] -> logits [B, C]. Runs in eval mode; nothing of it is changed.
        data: a DataLoader or any iterable of (x, y), a pair of tensors, or x alone.
        labels: y, when data is x alone.
        eps: radius of the L-infinity ball in pixel units, [0, 1].
        attacks: `standard_attacks(surrogate=surrogate)` unless given.
        surrogate: another model for the same data, whose adversarial images are tried on this one.
        sweep: more radii for the curves. eps = 1 is always run too, for the verdict.
        sweep_attacks: names of the attacks whose curves are drawn.
        autoattack: add AutoAttack (needs pyautoattack).
        repeats: how many draws to average for a model that is random at inference; refused with 1.
        batch_size: of tensors; a DataLoader has its own.
        seed: decides all random starts, targets and noise. Global generators are as before.
        device: where batches go; the model's device unless given.
        progress: True draws a bar (needs rich); or a function, called as progress(examples done, all examples
            or None, attack).

    Raises:
        ValueError: bad images, labels or outputs, a random model, eps outside [0, 1], no data.
        ImportError: autoattack without pyautoattack, progress=True without rich.

    """
    checks.at_least("repeats", repeats, 1)
    for radius in (eps, *sweep):
        checks.eps(radius)
    chosen = standard_attacks(surrogate=surrogate) if attacks is None else tuple(attacks)
    if autoattack:
        chosen = (*chosen, _autoattack())
    names = [attack.name for attack in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"Two attacks have one name: {sorted(names)}. Give every Attack a name of its own.")
    unknown = set(sweep_attacks) - set(names)
    if attacks is None and unknown:
        raise ValueError(
            f"sweep_attacks names {sorted(unknown)}; the attacks of this evaluation are {sorted(names)}."
        )
    swept = tuple(attack for attack in chosen if attack.name in sweep_attacks)
    plan = _Plan(chosen, swept, eps, tuple(sorted({*sweep, 1.0})) if swept else (), seed)
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    batches, total = _batches(data, labels, batch_size)
    every_gpu = list(range(torch.cuda.device_count()))

    tally, done = _Tally(), 0
    with modes_restored(model), torch.random.fork_rng(devices=every_gpu), _told(progress) as tell:
        torch.manual_seed(seed)
        model.eval()
        if surrogate is not None:
            surrogate.to(device)
        seen: nn.Module = model
        for number, batch in enumerate(batches):
            x, y = (ordinary(tensor.to(device)) for tensor in _pair(batch))
            if number == 0:
                checked_logits(model, x, y)
                if repeats > 1:
                    seen = _MeanOfDraws(model, repeats).eval()
                elif _draws_random_numbers(model, x):
                    raise ValueError(
                        "The model draws random numbers at inference, so one evaluation of it means little, "
                        "and gradients of single draws hide its weakness. Pass repeats= (10, say): every "
                        "attack then follows the mean gradient of that many draws, and an example counts as "
                        "correct when the mean of the logits over them is."
                    )
            for key, words, right in _attack_batch(seen, x, y, plan, number):
                tally.add(key, right)
                tell(done, total, words)
            done += len(x)
            tell(done, total, "end")
    if not done:
        raise ValueError("data holds no examples; evaluate() needs at least one batch (x, y).")
    return _report(tally, plan)


@contextmanager
def _told(progress: Progress | bool | None) -> Iterator[Progress]:
    """Who is told how far the evaluation is: nobody, the caller's function, or a bar in the terminal."""
    if not progress:
        yield lambda *_: None
    elif progress is not True:
        yield progress
    else:
        try:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar
        except ImportError as error:
            raise checks.not_installed("progress=True", "rich", "lab") from error
        text = TextColumn("{task.description}")
        with Bar(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("attacking", total=None)
            yield lambda done, total, name: bar.update(
                task, completed=done, total=total, description="done" if name == "end" else name
            )


def _attack_batch(
    model: nn.Module, x: Tensor, y: Tensor, plan: _Plan, number: int
) -> Iterator[tuple[Hashable, str, Tensor]]:
    """Key, name and right answers [B] of everything that is run on one batch."""

    def right(images: Tensor) -> Tensor:
        return checked_logits(model, images, y).argmax(1) == y

    def attacked(attack: Attack, radius: float) -> Tensor:
        seed = zlib.crc32(f"{plan.seed}/{attack.name}/{number}".encode())
        return right(attack.run(model, x, y, radius, seed))

    yield _CLEAN, "clean", right(x)
    yield _NONZERO, "gradients", ~_zero_gradient(model, x, y)
    for attack in plan.attacks:
        yield (attack.name, plan.eps), attack.name, attacked(attack, plan.eps)
    for radius in plan.radii:
        for attack in plan.swept:
            if radius != plan.eps:
                yield (attack.name, radius), f"{attack.name} at {radius!r}", attacked(attack, radius)


def _zero_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which examples' input gradients of the cross-entropy are exactly zero (or not finite) everywhere,
    [B].
    """
    gradient = gradient_of_score(model, x, lambda logits: F.cross_entropy(logits, y, reduction="none"))
    return (gradient.nan_to_num(0.0, 0.0, 0.0).flatten(1) == 0).all(1)


def _report(tally: _Tally, plan: _Plan) -> RobustnessReport:
    attacks, clean = plan.attacks, tally.mean(_CLEAN)
    accuracy = {attack.name: tally.mean((attack.name, plan.eps)) for attack in attacks}
    robust = tally.all(_CLEAN).clone()
    for attack in attacks:
        robust &= tally.all((attack.name, plan.eps))

    def of(kinds: Sequence[str], loss: str | None = None) -> dict[str, float]:
        return {a.name: accuracy[a.name] for a in attacks if a.kind in kinds and loss in (None, a.loss)}

    at_one = [tally.all((attack.name, 1.0)) for attack in plan.swept]
    zero_gradients = 1.0 - tally.mean(_NONZERO)
    verdict = masking_verdict(
        one_step=of(["one step"], "cross_entropy"),
        iterated=of(["iterated"], "cross_entropy"),
        white_box=of(["one step", "iterated"]),
        black_box=of(["black box"]),
        cross_entropy=accuracy.get("PGD cross-entropy"),
        margin=accuracy.get("PGD margin"),
        at_eps_one=float(torch.stack(at_one).all(0).double().mean()) if at_one else None,
        zero_gradients=zero_gradients,
        examples=len(robust),
    )
    curves = {
        a.name: {0.0: clean} | {radius: tally.mean((a.name, radius)) for radius in plan.radii}
        for a in plan.swept
    }
    return RobustnessReport(
        eps=plan.eps,
        examples=len(robust),
        clean_accuracy=clean,
        accuracy=accuracy,
        worst_case_accuracy=float(robust.double().mean()),
        robust=robust,
        curves=curves,
        zero_gradients=zero_gradients,
        verdict=verdict,
        seed=plan.seed,
    )


def _autoattack() -> Attack:
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
