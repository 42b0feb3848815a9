"""Accuracy under attack, never without the verdict on masking."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.adversarial._reading import modes_restored
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
            with modes_restored(model), torch.no_grad():
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
    if labels is None and isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor):
        data, labels = data
    if labels is not None:
        pairs = torch.utils.data.TensorDataset(data, labels)
        return torch.utils.data.DataLoader(pairs, batch_size), len(labels)
    try:
        total = len(data.dataset)
    except (AttributeError, TypeError):
        total = None
    return data, total


class _Tally:
    """Right answers per attack and eps, batch after batch."""

    def __init__(self) -> None:
        self.right: dict[str, list[Tensor]] = {}

    def add(self, name: str, right: Tensor) -> None:
        self.right.setdefault(name, []).append(right.cpu())

    def all(self, name: str) -> Tensor:
        return torch.cat(self.right[name])

    def mean(self, name: str) -> float:
        return float(self.all(name).double().mean())


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
    checks.eps(eps)
    for radius in sweep:
        checks.eps(radius)
    checks.at_least("repeats", repeats, 1)
    chosen = standard_attacks(surrogate=surrogate) if attacks is None else tuple(attacks)
    if autoattack:
        chosen = (*chosen, _autoattack())
    swept = [attack for attack in chosen if attack.name in sweep_attacks]
    if attacks is None and len(swept) < len(sweep_attacks):
        raise checks.unknown_attacks(set(sweep_attacks) - {a.name for a in chosen}, {a.name for a in chosen})
    radii = sorted({*sweep, 1.0}) if swept else []
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    batches, total = _batches(data, labels, batch_size)
    every_gpu = list(range(torch.cuda.device_count()))

    tally = _Tally()
    with modes_restored(model), torch.random.fork_rng(devices=every_gpu), _told(progress) as tell:
        torch.manual_seed(seed)
        model.eval()
        if surrogate is not None:
            surrogate.to(device)
        seen: nn.Module = model
        for number, batch in enumerate(batches):
            x, y = (tensor.to(device) for tensor in checks.batch_of_two(batch))
            if number == 0:
                with torch.no_grad():
                    checked_logits(model, x, y)
                if repeats > 1:
                    seen = _MeanOfDraws(model, repeats).eval()
                elif _draws_random_numbers(model, x):
                    raise checks.draws_random_numbers()
            done = len(tally.all("clean")) if number else 0
            for name, right in _attack_batch(seen, x, y, eps, chosen, swept, radii, seed, number):
                tally.add(name, right)
                tell(done + (len(x) if name == "end" else 0), total, name)
    if "clean" not in tally.right:
        raise checks.no_examples()
    return _report(tally, eps, chosen, swept, radii, seed)


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
            words = {"nonzero": "gradients", "end": "done"}
            yield lambda done, total, name: bar.update(
                task, completed=done, total=total, description=words.get(name, name)
            )


def _attack_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    attacks: Sequence[Attack],
    swept: Sequence[Attack],
    radii: Sequence[float],
    seed: int,
    number: int,
) -> Iterator[tuple[str, Tensor]]:
    """Name and right answers [B] of everything that is run on one batch."""

    def right(images: Tensor) -> Tensor:
        with torch.no_grad():
            return checked_logits(model, images, y).argmax(1) == y

    def attacked(attack: Attack, radius: float) -> Tensor:
        return right(attack.run(model, x, y, radius, zlib.crc32(f"{seed}/{attack.name}/{number}".encode())))

    yield "clean", right(x)
    yield "nonzero", ~_zero_gradient(model, x, y)
    for attack in attacks:
        yield attack.name, attacked(attack, eps)
    for radius in radii:
        for attack in swept:
            yield f"{attack.name} at {radius!r}", attacked(attack, radius)
    yield "end", torch.ones(len(x), dtype=torch.bool)


def _zero_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which examples' input gradients of the cross-entropy are exactly zero (or not finite) everywhere,
    [B].
    """
    inputs = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(inputs)
        checks.reaches_input(logits)
        (gradient,) = torch.autograd.grad(
            F.cross_entropy(logits, y, reduction="sum"), inputs, allow_unused=True
        )
    return (checks.input_gradient(gradient).nan_to_num(0.0, 0.0, 0.0).flatten(1) == 0).all(1)


def _report(
    tally: _Tally,
    eps: float,
    attacks: Sequence[Attack],
    swept: Sequence[Attack],
    radii: Sequence[float],
    seed: int,
) -> RobustnessReport:
    accuracy = {attack.name: tally.mean(attack.name) for attack in attacks}
    robust = tally.all("clean").clone()
    for attack in attacks:
        robust &= tally.all(attack.name)

    def of(kinds: Sequence[str], loss: str | None = None) -> dict[str, float]:
        return {a.name: accuracy[a.name] for a in attacks if a.kind in kinds and loss in (None, a.loss)}

    at_one = [tally.all(f"{attack.name} at 1.0") for attack in swept]
    zero_gradients = 1.0 - tally.mean("nonzero")
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
        a.name: {0.0: tally.mean("clean")} | {r: tally.mean(f"{a.name} at {r!r}") for r in radii}
        for a in swept
    }
    return RobustnessReport(
        eps=eps,
        examples=len(robust),
        clean_accuracy=tally.mean("clean"),
        accuracy=accuracy,
        worst_case_accuracy=float(robust.double().mean()),
        robust=robust,
        curves=curves,
        zero_gradients=zero_gradients,
        verdict=verdict,
        seed=seed,
    )


@contextmanager
def _no_grads(model: nn.Module) -> Iterator[None]:
    """Whatever is written to `.grad` in between is not there afterwards."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _autoattack() -> Attack:
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise checks.autoattack_missing(error) from error

    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        logging.getLogger("auto-attack").setLevel(logging.WARNING)
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < AUTOATTACK_CLASSES:
            raise checks.too_few_classes("AutoAttack", AUTOATTACK_CLASSES, classes)
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), _no_grads(model):
            ensemble = AutoAttack(model, norm="Linf", eps=eps, seed=seed % 2**31, device=x.device)
            targets = min(ensemble.fab.n_target_classes, classes - 1)
            ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
            found = ensemble.run_standard_evaluation(x, y, batch_size=len(x))
        images: Tensor = found[0] if isinstance(found, tuple) else found
        return images.clamp(0.0, 1.0)

    return Attack("AutoAttack", run, "ensemble", "several")
