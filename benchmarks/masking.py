"""How often the masking verdict errs, on nets whose truth is known because they were made here.

66 perceptrons on scikit-learn's 8x8 digits: 24 honest ones (plain, PGD-trained, TRADES, random smoothing) and
42 of seven kinds that hide their gradients (shattered, hidden steps, quantised input, scaled logits,
FGSM-overfitted, GREACE, noise without EoT), each kind at three strengths and two seeds. What a net hides is
the accuracy that the worse of FGSM and iFGSM leaves, less what is left by a PGD on the margin that knows the
trick and attacks the net behind it; one of the seven kinds that hides under 10 points masks nothing, and is
left out.

Two strengths of a kind set the thresholds: for every sign the largest value of an honest net, rounded up to a
whole point. The third is held out and judged by them, and by the thresholds in force, which are the larger of
these and of those before: nets trained longer than these are less exact.
Run it with ``python benchmarks/masking.py`` (minutes on one core).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from torch import Tensor, nn

from manyloss.adversarial import GradientDefense
from manyloss.lab.recipes._adversarial_training import divergence
from manyloss.lab.recipes._great import polynomial, random_crop
from manyloss.robustness import evaluate, fgsm, pgd, standard_attacks
from manyloss.robustness.masking import THRESHOLDS, size_of

EPS, HIDDEN, IMAGES, DRAWS = 0.1, 128, 200, 8
#: What a net hides at least, in accuracy, to be one that masks.
HIDES = 0.10
#: The indicators of Pintor et al. (2022) that are among the signs: unavailable gradients, transfer, no limit.
PINTOR = ("zero_gradients", "black_box_minus_white_box", "accuracy_at_eps_one")

Data = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Judged:
    """One net: what it is, what attacks leave and what it hides, and the size of every sign of masking."""

    kind: str
    strength: float
    seed: int
    left: Mapping[str, float]
    signs: Mapping[str, float]

    @property
    def honest(self) -> bool:
        """By its kind."""
        return not KINDS[self.kind][0]

    @property
    def masks(self) -> bool:
        """By its kind, and by what it hides."""
        return not self.honest and self.left["hidden"] >= HIDES

    @property
    def held_out(self) -> bool:
        """Whether no threshold is set by it."""
        _, strengths, third = KINDS[self.kind]
        return self.strength == strengths[third]

    def suspected(self, thresholds: Mapping[str, float]) -> bool:
        """By any of these thresholds."""
        return any(self.signs.get(sign, 0.0) > most + 1e-9 for sign, most in thresholds.items())


# -- data and training ------------------------------------------------------------------------------------


def digits() -> tuple[Data, Data]:
    """1,300 images [N, 1, 8, 8] in [0, 1] to train, the other 497 to test."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    y = torch.tensor(labels)[order]
    return (x[:1300], y[:1300]), (x[1300:], y[1300:])


def perceptron(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """[B, 1, 8, 8] -> [B, 10]."""
    hidden = (nn.Linear(64, HIDDEN), activation(), nn.Linear(HIDDEN, HIDDEN), activation())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(HIDDEN, 10))


def plain_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


def trained(data: Data, seed: int, epochs: int = 40, loss: Loss = plain_loss) -> nn.Sequential:
    """Adam at 1e-3, batches of 64."""
    torch.manual_seed(seed)
    model = perceptron()
    x, y = data
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for at in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            loss(model, x[at], y[at]).backward()
            optimizer.step()
    return model.eval()


def on_pgd(eps: float) -> Loss:
    """Cross-entropy on PGD images (Madry et al. 2017)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(pgd(model, x, y, eps, steps=5, seed=int(torch.randint(2**31, ())))), y)

    return loss


def trades(beta: float) -> Loss:
    """TRADES (Zhang et al. 2019)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        clean, start = model(x).detach(), int(torch.randint(2**31, ()))
        moved = pgd(model, x, y, EPS, steps=5, loss=lambda z, _: divergence(clean, z), seed=start)
        logits = model(x)
        return F.cross_entropy(logits, y) + beta * divergence(logits, model(moved)).mean()

    return loss


def on_fgsm(eps: float) -> Loss:
    """Cross-entropy on FGSM images without a random start, which nets overfit (Wong et al. 2020)."""
    return lambda model, x, y: F.cross_entropy(model(fgsm(model, x, y, eps)), y)


def greace_trained(data: Data, seed: int, beta: float, epochs: int = 160) -> nn.Sequential:
    """GREACE alone, by the paper's schedule, on images shifted by up to a pixel: its logits drift to 10^6."""
    torch.manual_seed(seed)
    shifts = torch.Generator().manual_seed(seed)
    model, auxiliary = perceptron(), perceptron(lambda: nn.LeakyReLU(0.2))
    defense = GradientDefense(model, auxiliary, alpha_max=0.0, beta_max=beta)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    schedule = polynomial(optimizer, epochs)
    x, y = data
    for epoch in range(epochs):
        defense.set_progress(epoch / epochs)
        for at in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            defense.backward(random_crop(x[at], shifts, padding=1), y[at])
            optimizer.step()
        schedule.step()
    return model.eval()


# -- what is put around a net -----------------------------------------------------------------------------


class Before(nn.Module):
    """A function of the images in front of a net."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 8, 8] -> [B, 10]."""
        return self.model(self.change(x))


class Steps(nn.Module):
    """ReLU in steps: flat nearly everywhere, and its gradient is that of steps drawn a little slanted."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return slanted(x.relu() / self.width, 40.0) * self.width


class Scaled(nn.Module):
    """Logits times a factor."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 8, 8] -> [B, 10]."""
        return self.factor * self.model(x)


class Smoothed(nn.Module):
    """The mean of the logits over fixed draws of Gaussian noise (Cohen et al. 2019).

    Without EoT a gradient sees a single draw, another one in every call.
    """

    def __init__(self, model: nn.Module, deviation: float, *, eot: bool) -> None:
        super().__init__()
        self.model, self.deviation, self.eot, self.calls = model, deviation, eot, 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 8, 8] -> [B, 10]."""
        alone = torch.is_grad_enabled() and not self.eot
        self.calls += alone
        generator = torch.Generator().manual_seed(self.calls if alone else 0)
        shape = (1 if alone else DRAWS, 1, *x.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
        moved = x + self.deviation * noise  # [draws, B, 1, 8, 8]
        logits: Tensor = self.model(moved.flatten(0, 1)).view(len(moved), len(x), -1)
        return logits.mean(0)


def slanted(x: Tensor, steepness: float) -> Tensor:
    """The nearest whole number, with steep ramps in between."""
    whole = x.floor()
    return whole + torch.sigmoid(steepness * (x - whole - 0.5))


def in_steps(base: nn.Sequential, levels: float) -> nn.Sequential:
    """The same weights with activations in steps."""
    made = perceptron(lambda: Steps(1 / levels))
    made.load_state_dict(base.state_dict())
    return made.eval()


# -- the nets ---------------------------------------------------------------------------------------------

#: Kind -> whether it masks, its three strengths, and which of them is held out.
KINDS: Mapping[str, tuple[bool, tuple[float, float, float], int]] = {
    "plain, epochs": (False, (20, 60, 150), 1),
    "PGD-trained, eps": (False, (0.05, 0.1, 0.2), 0),
    "TRADES, beta": (False, (1, 3, 6), 2),
    "random smoothing, deviation": (False, (0.1, 0.2, 0.3), 1),
    "shattered input, frequency": (True, (1000, 3000, 10000), 2),
    "hidden steps, per unit": (True, (2, 4, 8), 0),
    "quantised input, levels": (True, (2, 4, 8), 1),
    "scaled logits, factor": (True, (10, 100, 1000), 0),
    "FGSM-overfitted, eps": (True, (0.3, 0.4, 0.5), 1),
    "GREACE, beta": (True, (1.5, 2, 3), 2),
    "noise without EoT, deviation": (True, (0.3, 0.5, 0.8), 1),
}


def made(
    kind: str, strength: float, base: nn.Sequential, data: Data, seed: int
) -> tuple[nn.Module, nn.Module]:
    """A net of this kind, and the net behind it: what an attacker who knows the trick attacks."""
    model: nn.Module
    match kind.partition(",")[0]:
        case "plain":
            model = trained(data, seed, epochs=int(strength))
        case "PGD-trained":
            model = trained(data, seed, epochs=30, loss=on_pgd(strength))
        case "TRADES":
            model = trained(data, seed, epochs=30, loss=trades(strength))
        case "FGSM-overfitted":
            model = trained(data, seed, loss=on_fgsm(strength))
        case "GREACE":
            model = greace_trained(data, seed, strength)
        case "random smoothing":
            model = Smoothed(base, strength, eot=True)
        case "noise without EoT":
            return Smoothed(base, strength, eot=False), Smoothed(base, strength, eot=True)
        case "shattered input":
            return Before(base, lambda x: x + 0.01 * torch.sin(strength * x)), base
        case "hidden steps":
            return in_steps(base, strength), base
        case "quantised input":
            return Before(base, lambda x: slanted(x * strength, 40.0) / strength), base
        case _:
            return Scaled(base, strength), base
    return model, model


def judge(
    model: nn.Module, behind: nn.Module, surrogate: nn.Module, data: Data
) -> tuple[dict[str, float], dict[str, float]]:
    """The size of every sign of masking; and what the attacks leave, the one that knows the trick too."""
    x, y = (part[:IMAGES] for part in data)
    attacks = tuple(each for each in standard_attacks(surrogate=surrogate) if each.kind != "targeted")
    report = evaluate(model, x, y, eps=EPS, attacks=attacks)
    with torch.no_grad():
        known = (
            (model(pgd(behind, x, y, EPS, loss="margin", restarts=2)).argmax(1) == y).double().mean().item()
        )
    left = report.accuracy
    shown = {"clean": report.clean_accuracy, "FGSM": left["FGSM"], "iFGSM": left["iFGSM"]}
    shown["hidden"] = max(left["FGSM"], left["iFGSM"]) - known
    return {sign: size_of(sign, value) for sign, value in report.verdict.measured.items()}, shown


def nets(seeds: int) -> Iterator[Judged]:
    """Make and judge all of them."""
    train, test = digits()
    surrogate = trained(train, seed=1000)
    for seed in range(seeds):
        base = trained(train, seed)
        for kind, (_, strengths, _) in KINDS.items():
            for strength in strengths:
                model, behind = made(kind, strength, base, train, seed)
                signs, left = judge(model, behind, surrogate, test)
                yield Judged(kind, strength, seed, left, signs)


# -- error rates ------------------------------------------------------------------------------------------


def calibrated(judged: list[Judged]) -> dict[str, float]:
    """Sign -> the largest value of an honest net that is not held out, rounded up to a whole point."""
    honest = [net for net in judged if net.honest and not net.held_out]
    largest = {sign: max(net.signs.get(sign, 0.0) for net in honest) for sign in THRESHOLDS}
    return {sign: max(0.01, math.ceil(100 * most - 1e-6) / 100) for sign, most in largest.items()}


def rates(judged: list[Judged], thresholds: Mapping[str, float]) -> dict[str, str]:
    """False alarms among honest nets and misses among those that mask, with 95 % Wilson intervals."""

    def rate(wrong: list[bool]) -> str:
        found = binomtest(sum(wrong), len(wrong)).proportion_ci(method="wilson")
        return f"{sum(wrong)} of {len(wrong)} ({found.low:.0%} to {found.high:.0%})"

    return {
        "honest nets suspected": rate([net.suspected(thresholds) for net in judged if net.honest]),
        "masking nets missed": rate([not net.suspected(thresholds) for net in judged if net.masks]),
    }


def summary(judged: list[Judged]) -> Iterator[dict[str, object]]:
    """A row per rule, per sign and per kind."""
    thresholds = calibrated(judged)
    held_out = [net for net in judged if net.held_out]
    for rule, which, by in (
        ("calibrated", "those that set it", thresholds),
        ("calibrated", "held out", thresholds),
        ("in force", "held out", THRESHOLDS),
        ("in force", "all", THRESHOLDS),
        ("three indicators of Pintor et al.", "all", {sign: THRESHOLDS[sign] for sign in PINTOR}),
    ):
        of = {"all": judged, "held out": held_out}.get(which, [net for net in judged if not net.held_out])
        yield {"rule": rule, "nets": which, **rates(of, by)}

    def found(nets: list[Judged], by: Mapping[str, float]) -> str:
        return f"{sum(net.suspected(by) for net in nets)} of {len(nets)}"

    for sign, threshold in thresholds.items():
        alone = {sign: THRESHOLDS[sign]}
        yield {
            "sign": sign,
            "calibrated": threshold,
            "in force": THRESHOLDS[sign],
            "finds of the masking nets": found([net for net in judged if net.masks], alone),
            "suspects of the honest ones": found([net for net in judged if net.honest], alone),
        }
    for kind, (masks, strengths, third) in KINDS.items():
        mine = [net for net in judged if net.kind == kind]
        counted = [net for net in mine if net.masks or net.honest]
        left = {f"{name}, median": f"{median(net.left[name] for net in mine):.1%}" for name in mine[0].left}
        yield {
            "kind": kind,
            "strengths": ", ".join(f"{each:g}" for each in strengths),
            "held out": f"{strengths[third]:g}",
            **left,
            "masks": f"{sum(net.masks for net in mine)} of {len(mine)}" if masks else "no",
            "suspected": found(counted, THRESHOLDS),
        }


def main(seeds: int, verbose: bool) -> None:
    """Print the rows of `summary`."""
    torch.set_num_threads(1)
    judged = []
    for net in nets(seeds):
        judged.append(net)
        if verbose:
            numbers = {name: round(value, 3) for name, value in {**net.left, **net.signs}.items()}
            print(net.kind, net.strength, net.seed, numbers, flush=True)
    for row in summary(judged):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.verbose)
