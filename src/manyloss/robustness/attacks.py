"""White-box attacks inside an L-infinity or L2 ball: FGSM, iterated FGSM and PGD, untargeted or targeted.

x [B, ...] lies in [0, 1] and so does every result; eps is in the same units (8/255, not 8). In the L2 norm a
step follows the gradient divided by its length in place of its sign. The model maps x
to logits [B, C], with any normalisation inside. Attacks run in eval mode, put every submodule's mode back,
and write to no `.grad`. Sources: Goodfellow et al. 2014 (FGSM), Kurakin et al. 2016 (iterated, least
likely), Madry et al. 2017 (PGD), Carlini and Wagner 2017 (margin), Croce and Hein 2020 (DLR).

Every function raises ValueError for images outside [0, 1], labels that name no class, outputs that are no
logits and an eps outside [0, 1], and those that follow gradients RuntimeError in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss import checks
from manyloss.input_gradients import gradient_of_score, ordinary
from manyloss.precision import full_precision
from manyloss.restore import modes_restored

AttackLoss = Callable[[Tensor, Tensor], Tensor]
_CPU = torch.device("cpu")  # where random numbers are drawn, whatever the default device


def _others(logits: Tensor, classes: Tensor) -> Tensor:
    """The largest logit among the other classes, [B]."""
    return logits.scatter(1, classes[:, None], -torch.inf).amax(1)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _to_climb(logits: Tensor, y: Tensor, targets: Tensor | None, loss: str | AttackLoss) -> Tensor:
    """What the attacker makes larger, one number per example [B]."""
    aim = y if targets is None else targets
    direction = 1.0 if targets is None else -1.0
    if callable(loss):
        return direction * loss(logits, aim)
    if loss == "cross_entropy":
        return direction * F.cross_entropy(logits, aim, reduction="none")
    if loss == "margin":
        return direction * (_others(logits, aim) - _of(logits, aim))
    checks.one_of("loss", loss, ("cross_entropy", "margin", "dlr"))
    classes, needed = logits.shape[1], 3 if targets is None else 4
    if classes < needed:
        raise ValueError(
            f"The DLR loss needs at least {needed} classes; received {classes}. Use loss='margin'."
        )
    first, _, third, *rest = logits.sort(1, descending=True).values.unbind(1)
    if targets is None:
        return (_others(logits, y) - _of(logits, y)) / (first - third + 1e-12)
    return (_of(logits, targets) - _of(logits, y)) / (first - (third + rest[0]) / 2 + 1e-12)


def checked_logits(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The model's logits [B, C], after all checks of inputs, labels and outputs."""
    checks.images(x, (0.0, 1.0))
    checks.labels_of(x, y)
    with torch.no_grad():
        logits = checks.logits(model(x), len(x))
    checks.labels_in_range(y, logits.shape[1])
    return full_precision(logits)


def _direction(
    model: nn.Module, x: Tensor, y: Tensor, targets: Tensor | None, loss: str | AttackLoss, norm: str
) -> Tensor:
    """The step of size 1 that climbs fastest: the gradient's sign, or the gradient of length 1, [B, ...]."""
    y, targets = ordinary(y), None if targets is None else ordinary(targets)
    gradient = gradient_of_score(model, x, lambda logits: _to_climb(logits, y, targets, loss))
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    return gradient.sign() if norm == "linf" else of_length_one(gradient)


def of_length_one(vectors: Tensor) -> Tensor:
    """Each of [B, ...] with an L2 norm of 1; zeros stay zero."""
    flat, tiny = vectors.flatten(1), torch.finfo(vectors.dtype).tiny
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=tiny)  # squares of small numbers are zeros
    units: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp(min=tiny)
    return units.view_as(vectors)


def _project(x: Tensor, centre: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return torch.minimum(torch.maximum(x, centre - eps), centre + eps).clamp(0.0, 1.0)
    offset = x - centre
    length = offset.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
    farthest = max(eps, torch.finfo(x.dtype).tiny)
    inside: Tensor = centre + offset * (eps / length.clamp(min=farthest))
    return inside.clamp(0.0, 1.0)


def _random_offset(x: Tensor, generator: torch.Generator, norm: str) -> Tensor:
    """Uniform in the ball of radius 1, like x; the same on every device."""
    double: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": _CPU}
    if norm == "linf":
        return (torch.rand(x.shape, **double) * 2 - 1).to(x)
    count, size = len(x), x[:1].numel()
    radius = torch.rand((count, *[1] * (x.dim() - 1)), **double) ** (1 / max(size, 1))
    return _random_surface(x, generator) * radius.to(x)


def _check(model: nn.Module, x: Tensor, y: Tensor, targets: Tensor | None) -> None:
    logits = checked_logits(model, x, y)
    if targets is not None:
        checks.labels_of(x, targets)
        checks.labels_in_range(targets, logits.shape[1], "targets")
        if bool((targets == y).any().item()):
            raise ValueError(
                "targets holds true labels; a targeted attack needs a wrong class for every example."
            )


def _first_that_works(
    model: nn.Module, tries: Iterable[Tensor], y: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Per example the first of ``tries`` [B, ...] that the model gets wrong, or takes for the target; else
    the last.
    """
    kept: Tensor | None = None
    for moved in tries:
        if kept is None:
            kept = moved
        else:
            with torch.no_grad():
                predicted = model(kept).argmax(1)
            works = predicted != y if targets is None else predicted == targets
            kept = torch.where(works.view(-1, *[1] * (moved.dim() - 1)), kept, moved)
    assert kept is not None
    return kept.detach()


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    targets: Tensor | None = None,
    loss: str | AttackLoss = "cross_entropy",
    norm: str = "linf",
) -> Tensor:
    """One step: clip(x + eps sign(grad_x L(x, y))), or x - eps sign(grad_x L(x, targets)) when targeted.

    Args:
        model: x -> logits [B, C].
        x: [B, ...] in [0, 1].
        y: int64 [B], the true classes.
        eps: radius of the ball, in [0, 1]; from 0 on in the L2 norm.
        targets: int64 [B], a wrong class per example to move towards; None moves away from y.
        loss: L, one of "cross_entropy", "margin", "dlr", or a function (logits, classes) -> [B].
        norm: "linf", or "l2", where the step is the gradient divided by its length.

    Returns:
        [B, ...] in [0, 1].

    """
    return ifgsm(model, x, y, eps, steps=1, step_size=eps, targets=targets, loss=loss, norm=norm)


def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    targets: Tensor | None = None,
    loss: str | AttackLoss = "cross_entropy",
    norm: str = "linf",
) -> Tensor:
    """x_0 = x, x_{k+1} = clip(x_k + step_size sign(grad_x L(x_k, y))), clipped to the ball and [0, 1].

    Args:
        model: x -> logits [B, C].
        x: [B, ...] in [0, 1].
        y: int64 [B], the true classes.
        eps: radius of the ball, in [0, 1].
        steps: how many.
        step_size: eps / steps unless given.
        targets: as for :func:`fgsm`.
        loss: as for :func:`fgsm`.
        norm: as for :func:`fgsm`.

    Returns:
        [B, ...] in [0, 1].

    """
    checks.eps(eps, norm)
    checks.whole("steps", steps, 1)
    return pgd(
        model, x, y, eps, steps=steps, step_size=eps / steps if step_size is None else step_size,
        random_start=False, targets=targets, loss=loss, norm=norm,
    )  # fmt: skip


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    targets: Tensor | None = None,
    loss: str | AttackLoss = "cross_entropy",
    norm: str = "linf",
    seed: int = 0,
) -> Tensor:
    """As :func:`ifgsm`, from a uniform random point of the ball.

    Args:
        model: x -> logits [B, C].
        x: [B, ...] in [0, 1].
        y: int64 [B], the true classes.
        eps: radius of the ball, in [0, 1].
        steps: how many.
        step_size: 2.5 eps / steps unless given.
        restarts: of several an example keeps the first that works (a wrong class, or the target), else the
            last.
        random_start: False starts from x itself.
        targets: as for :func:`fgsm`.
        loss: as for :func:`fgsm`.
        norm: as for :func:`fgsm`.
        seed: decides the starts; torch's global generators are not used.

    Returns:
        [B, ...] in [0, 1].

    """
    checks.eps(eps, norm)
    checks.whole("steps", steps, 1)
    checks.whole("restarts", restarts, 1)
    if step_size is not None:
        checks.not_negative("step_size", step_size)
    checks.flag("random_start", random_start)
    step = 2.5 * eps / steps if step_size is None else step_size
    generator = torch.Generator(_CPU).manual_seed(checks.seed(seed))
    x = x.detach()

    def descents() -> Iterator[Tensor]:
        for _ in range(restarts):
            moved = x
            if random_start:
                moved = _project(x + eps * _random_offset(x, generator, norm), x, eps, norm)
            for _ in range(steps):
                moved = moved + step * _direction(model, moved, y, targets, loss, norm)
                moved = _project(moved, x, eps, norm)
            yield moved

    with modes_restored(model):
        model.eval()
        _check(model, x, y, targets)
        return _first_that_works(model, descents(), y, targets)


def random_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    tries: int = 10,
    norm: str = "linf",
    seed: int = 0,
) -> Tensor:
    """Black box: the first of `tries` random corners x +- eps that the model gets wrong, else the last.

    In the L2 norm, random points of the ball's surface.
    """
    checks.eps(eps, norm)
    checks.whole("tries", tries, 1)
    generator = torch.Generator(_CPU).manual_seed(checks.seed(seed))
    x = x.detach()

    def corners() -> Iterator[Tensor]:
        for _ in range(tries):
            corner = random_signs(x, generator) if norm == "linf" else _random_surface(x, generator)
            yield (x + eps * corner).clamp(0.0, 1.0)

    with modes_restored(model):
        model.eval()
        _check(model, x, y, None)
        return _first_that_works(model, corners(), y)


def _random_surface(x: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform on the L2 sphere of radius 1, like x."""
    return of_length_one(torch.randn(x.shape, generator=generator, dtype=torch.float64, device=_CPU)).to(x)


def random_signs(x: Tensor, generator: torch.Generator) -> Tensor:
    """+1 or -1 for every element, like x; the same on every device."""
    return (torch.randint(2, x.shape, generator=generator, device=_CPU) * 2 - 1).to(x)


def random_targets(y: Tensor, classes: int, *, seed: int = 0) -> Tensor:
    """One wrong class per example, uniform among the `classes` - 1 others, int64 [B]. Fix it once per
    example.
    """
    checks.whole("classes", classes, 2)
    checks.labels_in_range(y, classes)
    generator = torch.Generator(_CPU).manual_seed(checks.seed(seed))
    shift = torch.randint(1, classes, y.shape, generator=generator, device=_CPU)
    return (y + shift.to(y.device)) % classes


def least_likely_targets(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The wrong class with the smallest logit on the clean image, int64 [B]: the paper's "worst" target."""
    with modes_restored(model):
        model.eval()
        logits = checked_logits(model, x, y)
        return logits.scatter(1, y[:, None], torch.inf).argmin(1)
