"""Accuracy under attack, never without the verdict on masking."""

from __future__ import annotations

import copy
import math
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
from manyloss.precision import without_tf32
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
    """What is run on every batch: the attacks at eps, and those of the curves at every radius.

    ``halved`` are those that run at eps / 2 too, whose images the ball holds as well; ``exact`` are those
    that run a second time on a copy of the model in float64; ``unlimited`` is a radius that allows every
    image.
    """

    attacks: tuple[Attack, ...]
    swept: tuple[Attack, ...]
    halved: tuple[Attack, ...]
    exact: tuple[Attack, ...]
    eps: float
    norm: str
    radii: tuple[float, ...]
    unlimited: float
    seed: int


#: What is counted beside the attacks, whose keys are pairs (name, radius).
_CLEAN, _GRADIENTLESS, _FLOAT64, _MISSED = "clean", "without gradient", "in float64", "missed"


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
    norm: str = "linf",
    float64: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | bool | None = None,
) -> RobustnessReport:
    """Attack a model and say how far to trust the result.

    Args:
        model: x [B, ...] in [0, 1] -> logits [B, C]. Runs in eval mode and, on a GPU, without TF32, whose
            rounding would hide gradients; nothing of it is changed.
        data: a DataLoader or any iterable of (x, y), a pair of tensors, or x alone.
        labels: y, when data is x alone.
        eps: radius of the ball in pixel units: [0, 1], and from 0 on in the L2 norm.
        attacks: `standard_attacks(surrogate=surrogate, norm=norm)` unless given; own ones stay in that ball.
        surrogate: another model for the same data, whose adversarial images are tried on this one.
        sweep: more radii for the curves. A radius that allows every image (1, or sqrt(d) in the L2 norm) is
            always run too, for the verdict.
        sweep_attacks: names of the attacks whose curves are drawn.
        autoattack: add AutoAttack (needs pyautoattack).
        repeats: how many draws to average for a model that is random at inference; refused with 1.
        norm: of the ball, "linf" or "l2".
        float64: also run the attacks that climb cross-entropy with their gradient in float64, on a copy of
            the model, for the verdict. A model that cannot be copied so, or is random, is spared.
        batch_size: of tensors; a DataLoader has its own.
        seed: decides all random starts, targets and noise. Global generators are as before.
        device: where batches go; the model's device unless given.
        progress: True draws a bar (needs rich); or a function, called as progress(examples done, all examples
            or None, attack).

    Raises:
        ValueError: bad images, labels or outputs, a random model, eps outside [0, 1], no data.
        ImportError: autoattack without pyautoattack, progress=True without rich.

    """
    checks.network("model", model)
    checks.whole("repeats", repeats, 1)
    checks.whole("batch_size", batch_size, 1)
    seed = checks.seed(seed)
    for radius in (eps, *sweep):
        checks.eps(radius, norm)
    chosen = standard_attacks(surrogate=surrogate, norm=norm) if attacks is None else tuple(attacks)
    if autoattack:
        chosen = (*chosen, auto_attack(norm))
    swept = _named(chosen, sweep_attacks, strict=attacks is None)
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    batches, total = _batches(data, labels, batch_size)
    every_gpu = list(range(torch.cuda.device_count()))

    tally, done = _Tally(), 0
    reproducible = torch.random.fork_rng(devices=every_gpu)
    with modes_restored(model), reproducible, without_tf32(), _reporting(progress) as report:
        torch.manual_seed(seed)
        model.eval()
        if surrogate is not None:
            surrogate.to(device)
        for number, batch in enumerate(batches):
            x, y = (ordinary(tensor.to(device)) for tensor in _pair(batch))
            if number == 0:
                seen = _judged(model, x, y, repeats)
                exact = _in_float64(model, x, y) if float64 and repeats == 1 else None
                halved = _climbing_cross_entropy(chosen, "one step")
                followed = () if exact is None else (*halved, *_climbing_cross_entropy(chosen, "iterated"))
                unlimited = 1.0 if norm == "linf" else math.sqrt(x[0].numel())
                radii = tuple(sorted({*sweep, unlimited})) if swept else ()
                plan = _Plan(chosen, swept, halved, followed, eps, norm, radii, unlimited, seed)
            for key, words, right in _attack_batch(seen, exact, x, y, plan, number):
                tally.add(key, right)
                report(done, total, words)
            done += len(x)
            report(done, total, "end")
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


def _climbing_cross_entropy(attacks: Sequence[Attack], kind: str) -> tuple[Attack, ...]:
    return tuple(attack for attack in attacks if attack.kind == kind and attack.loss == "cross_entropy")


def _in_float64(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module | None:
    """A copy of the model that counts in float64; None where there can be none, or it counts so already."""
    if x.dtype == torch.float64:
        return None
    try:
        exact = copy.deepcopy(model).double()
        checked_logits(exact, x.double(), y)
    except (RuntimeError, TypeError, copy.Error):  # a type that is fixed in its forward, a device without it
        return None
    return exact


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
def _reporting(progress: Progress | bool | None) -> Iterator[Progress]:
    """What receives the evaluation's progress: nothing, the caller's function, or a bar in the terminal."""
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
    model: nn.Module, exact: nn.Module | None, x: Tensor, y: Tensor, plan: _Plan, number: int
) -> Iterator[tuple[Hashable, str, Tensor]]:
    """Key, name and right answers [B] of everything that is run on one batch."""

    def answers(images: Tensor) -> Tensor:
        return checked_logits(model, images, y).argmax(1)

    def seed_of(attack: Attack) -> int:
        return zlib.crc32(f"{plan.seed}/{attack.name}/{number}".encode())

    def attacked(attack: Attack, radius: float, by: nn.Module = model) -> Tensor:
        images = attack.run(by, x if by is model else x.double(), y, radius, seed_of(attack))
        return answers(images.to(x.dtype))

    yield _CLEAN, "clean", answers(x) == y
    yield _GRADIENTLESS, "gradients", without_gradient(model, x, y)
    runs = [(attack, plan.eps) for attack in plan.attacks]
    runs += [(attack, plan.eps / 2) for attack in plan.halved]
    runs += [(attack, radius) for radius in plan.radii for attack in plan.swept]
    for attack, radius in dict.fromkeys(runs):
        words = attack.name if radius == plan.eps else f"{attack.name} at {radius!r}"
        found = attacked(attack, radius)
        yield (attack.name, radius), words, found == y
        if attack.targets is not None and radius == plan.eps:
            targets = attack.targets(model, x, y, seed_of(attack))
            yield (_MISSED, attack.name), words, found != targets
    if exact is not None:
        for attack in plan.exact:
            yield (_FLOAT64, attack.name), f"{attack.name} in float64", attacked(attack, plan.eps, exact) == y


def without_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """At which examples the gradient of the cross-entropy is exactly zero (or not finite) everywhere, [B]."""
    gradient = gradient_of_score(model, x, lambda logits: F.cross_entropy(logits, y, reduction="none"))
    return (gradient.nan_to_num(0.0, 0.0, 0.0).flatten(1) == 0).all(1)


def _report(tally: _Tally, plan: _Plan) -> RobustnessReport:
    attacks, clean = plan.attacks, tally.mean(_CLEAN)
    accuracy = {attack.name: tally.mean((attack.name, plan.eps)) for attack in attacks}
    robust = tally.all(_CLEAN).clone()
    inside = [(attack.name, plan.eps) for attack in attacks]
    inside += [(attack.name, plan.eps / 2) for attack in plan.halved]
    for key in [*inside, *((_FLOAT64, attack.name) for attack in plan.exact)]:
        robust &= tally.all(key)

    def of(kinds: Sequence[str], loss: str | None = None) -> dict[str, float]:
        return {a.name: accuracy[a.name] for a in attacks if a.kind in kinds and loss in (None, a.loss)}

    at_one = [tally.all((attack.name, plan.unlimited)) for attack in plan.swept]
    zero_gradients = tally.mean(_GRADIENTLESS)
    in_float64 = {attack.name: tally.mean((_FLOAT64, attack.name)) for attack in plan.exact}
    verdict = masking_verdict(
        one_step=of(["one step"], "cross_entropy"),
        iterated=of(["iterated"], "cross_entropy"),
        white_box=of(["one step", "iterated"]),
        black_box=of(["black box"]),
        cross_entropy=accuracy.get("PGD cross-entropy"),
        margin=accuracy.get("PGD margin"),
        at_eps_one=float(torch.stack(at_one).all(0).double().mean()) if at_one else None,
        zero_gradients=zero_gradients,
        half_step={attack.name: tally.mean((attack.name, plan.eps / 2)) for attack in plan.halved},
        in_float64=in_float64,
        unlimited=plan.unlimited,
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
        without_gradient=tally.all(_GRADIENTLESS),
        verdict=verdict,
        seed=plan.seed,
        norm=plan.norm,
        in_float64=in_float64,
        not_reached={a.name: tally.mean((_MISSED, a.name)) for a in attacks if a.targets is not None},
    )
