"""Accuracy under attack, never without the verdict on masking."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.input_gradients import gradient_of_score, ordinary
from manyloss.restore import modes_restored
from manyloss.robustness.attacks import checked_logits
from manyloss.robustness.masking import masking_verdict
from manyloss.robustness.report import RobustnessReport
from manyloss.robustness.standard import Attack, auto_attack, standard_attacks

Progress = Callable[[int, int | None, str], None]


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
        chosen = (*chosen, auto_attack())
    swept = _named(chosen, sweep_attacks, strict=attacks is None)
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
        for number, batch in enumerate(batches):
            x, y = (ordinary(tensor.to(device)) for tensor in _pair(batch))
            if number == 0:
                seen = _judged(model, x, y, repeats)
            for key, words, right in _attack_batch(seen, x, y, plan, number):
                tally.add(key, right)
                tell(done, total, words)
            done += len(x)
            tell(done, total, "end")
    if not done:
        raise ValueError("data holds no examples; evaluate() needs at least one batch (x, y).")
    return _report(tally, plan)


def _named(attacks: Sequence[Attack], names: Sequence[str], *, strict: bool) -> tuple[Attack, ...]:
    """The attacks of these names; a name without an attack is wrong if `strict`."""
    known = [attack.name for attack in attacks]
    if len(set(known)) < len(known):
        raise ValueError(f"Two attacks have one name: {sorted(known)}. Give every Attack a name of its own.")
    unknown = sorted(set(names) - set(known))
    if strict and unknown:
        raise ValueError(
            f"sweep_attacks names {unknown}; the attacks of this evaluation are {sorted(known)}."
        )
    return tuple(attack for attack in attacks if attack.name in names)


def _judged(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> nn.Module:
    """What is attacked: the model, or the mean of `repeats` draws of a random one."""
    checked_logits(model, x, y)
    if repeats > 1:
        return _MeanOfDraws(model, repeats).eval()
    if _draws_random_numbers(model, x):
        raise ValueError(
            "The model draws random numbers at inference, so one evaluation of it means little, and "
            "gradients of single draws hide its weakness. Pass repeats= (10, say): every attack then follows "
            "the mean gradient of that many draws, and an example counts as correct when the mean of the "
            "logits over them is."
        )
    return model


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
            checks.not_installed("progress=True", "rich", "lab", error)
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
