"""The defenses of GREAT 2018, section 3.1: five trainings, the paper's attacks, and what stands up to more.

**Networks.** ResNet-18 for 32x32; the auxiliary network is another one with LeakyReLU(0.2).

**Trainings.** baseline; fgsm-training: 0.5 (clean + FGSM at eps 0.2); greace: the modified cross-entropy
alone (alpha 0); great: the reversed gradient alone (beta 0); great-greace: both, the paper's GRE(AT+CE). The
paper has no stronger attack in training; pgd-training is ours, the honest baseline: Madry's, at the tested
eps; trades, where a rule has it, is another.

**Judged** on the test set: clean accuracy; the paper's attacks, FGSM and iFGSM (10 steps), untargeted and
with a random or the least likely target (which give the TRUE label's accuracy); PGD with cross-entropy and
with the margin loss; noise and transfer from the baseline; the worst case of all; AutoAttack where it is
installed. The verdict on gradient masking stands beside these numbers, always. On the way, three attacks, the
size of logits and the share of images without a gradient are measured about 20 times, for the report.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from manyloss.adversarial import GradientDefense, networks
from manyloss.checks import eps
from manyloss.lab.arms import Arm, ArmContext
from manyloss.lab.datasets import default_data_root, images
from manyloss.lab.models.resnet import resnet18
from manyloss.lab.problem import FinalEvaluation, Splits
from manyloss.lab.recipes._adversarial_training import (
    AdversarialTraining,
    Classifier,
    LibraryMethod,
    fgsm_training,
    network_of,
    pgd_training,
    trades,
)
from manyloss.lab.recipes._great import GreatProblem, as_bytes, crop, splits_of
from manyloss.precision import without_tf32
from manyloss.restore import modes_restored
from manyloss.robustness import (
    Attack,
    RobustnessReport,
    evaluate,
    fgsm,
    ifgsm,
    loss_landscape,
    pgd,
    standard_attacks,
)
from manyloss.robustness.evaluation import without_gradient

BASELINE = "baseline"
TRAIN_ACCURACY = "train accuracy"
WORST = "worst case"
AUTOATTACK = "AutoAttack"
ATTACKS = (
    "FGSM",
    "iFGSM",
    "FGSM least likely",
    "FGSM random target",
    "iFGSM least likely",
    "iFGSM random target",
    "PGD cross-entropy",
    "PGD margin",
    "noise",
    "transfer",
)
#: Of the targeted attacks: how often another class than the target was named.
MISSED = tuple(
    f"{name}, target missed" for name in ATTACKS if name.endswith(("least likely", "random target"))
)
TRAINING_EPS = 0.2
ZERO_GRADIENT = "images with a zero gradient"
#: Points of the curves over training, and on how many test images.
CURVE_POINTS, CURVE_IMAGES = 20, 200
#: The scales of the recipes, where they do not differ.
SMOKE: Mapping[str, Any] = {
    "epochs": 2,
    "seeds": 1,
    "data": "digits",
    "width": 4,
    "train": 256,
    "validation": 50,
    "test": 10,
    "batch_size": 32,
    "attack_steps": 2,
    "pgd_steps": 2,
}
SMALL: Mapping[str, Any] = {
    "epochs": 10,
    "seeds": 3,
    "width": 8,
    "validation": 500,
    "test": 200,
    "batch_size": 64,
    "autoattack": 20,
}
FULL: Mapping[str, Any] = {"epochs": 100, "seeds": 3, "autoattack": 1000}
#: Test images around which the loss is drawn in the report, and points along each side.
SLICES, POINTS = 3, 15
ROWS = (BASELINE, "fgsm-training", "greace", "great", "great-greace", "pgd-training")


def _defense(context: ArmContext, **settings: Any) -> LibraryMethod:
    model = network_of(context.model)
    if isinstance(context.problem, DefenseProblem) and isinstance(context.model, Classifier):
        auxiliary: nn.Module = context.problem.auxiliary().to(context.device)
    else:
        auxiliary = nn.Identity()  # only the settings are tried
    return LibraryMethod(GradientDefense(model, auxiliary, **settings))


def _fgsm_training(context: ArmContext, eps: float) -> AdversarialTraining:  # noqa: ARG001
    return fgsm_training(eps)


def _pgd_training(context: ArmContext, eps: float | None, steps: int) -> AdversarialTraining:
    return pgd_training(_radius(context, eps), steps=steps, seed=context.seed)


def _trades(context: ArmContext, eps: float | None, beta: float, steps: int) -> AdversarialTraining:
    return trades(_radius(context, eps), beta=beta, steps=steps, seed=context.seed)


def _radius(context: ArmContext, eps: float | None) -> float:
    """That of the training images: the tested one unless given."""
    tested = context.problem.eps if isinstance(context.problem, DefenseProblem) else TRAINING_EPS
    return tested if eps is None else eps


_DEFENSE = {
    "alpha_max": 1.0,
    "greace": "literal",
    "mask": "true_class",
    "simultaneous": True,
    "auxiliary_lr": 1e-3,
}


def defense_arms(beta_max: float) -> dict[str, Arm]:
    """The rows of the paper's tables, and ours."""
    needs = (BASELINE,)
    search = {
        "mask": ("true_class", "none", "detached"),
        "greace": ("literal", "reweighted"),
        "auxiliary_lr": (1e-4, 1e-3),
    }
    arms = (
        Arm(BASELINE, "Cross-entropy on clean images."),
        Arm(
            "fgsm-training",
            "Half clean, half FGSM images (the paper's adversarial training).",
            _fgsm_training,
            {"eps": TRAINING_EPS},
            requires=needs,
        ),
        Arm(
            "greace",
            "GREACE: negative classes count more where their gradients look alike.",
            _defense,
            {**_DEFENSE, "alpha_max": 0.0, "beta_max": beta_max},
            search=search,
            requires=needs,
        ),
        Arm(
            "great",
            "GREAT: input gradients that an auxiliary network cannot tell apart by class.",
            _defense,
            {**_DEFENSE, "beta_max": 0.0},
            search=search,
            requires=needs,
        ),
        Arm(
            "great-greace",
            "GREAT and GREACE together, the paper's GRE(AT+CE).",
            _defense,
            {**_DEFENSE, "beta_max": beta_max},
            search=search,
            requires=needs,
        ),
        Arm(
            "pgd-training",
            "PGD images only (Madry), at the tested eps: the honest baseline.",
            _pgd_training,
            {"eps": None, "steps": 7},
            search={"steps": (1, 7, 10)},
            requires=needs,
        ),
        Arm(
            "trades",
            "TRADES: clean images, and answers that PGD cannot change: another honest baseline.",
            _trades,
            {"eps": None, "beta": 6.0, "steps": 7},
            search={"beta": (1.0, 3.0, 6.0)},
            requires=needs,
        ),
    )
    return {arm.name: arm for arm in arms}


class DefenseProblem(GreatProblem):
    """Classify images, and go on doing so under attack; a subclass sets ``eps`` and the arms, and has the
    images and the networks.

    Args:
        train: how many training images, stratified; None for all.
        validation: how many of the training images are held out.
        test: how many test images are attacked and counted, stratified; None for all.
        attack_steps: steps of iFGSM, 10 in the paper.
        pgd_steps: steps of PGD in the evaluation.
        autoattack: how many test images AutoAttack is run on, where it is installed; it takes long.
        sweep: the radii of the accuracy curves.
        batch_size: examples per step, 128 in the paper.

    """

    eps = 0.1
    baseline = BASELINE
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {"class": F.cross_entropy}
    metrics: Mapping[str, Callable[[], Metric]] = {
        "class": partial(MulticlassAccuracy, num_classes=images.CLASSES, average="micro")
    }

    def __init__(
        self,
        train: int | None = None,
        validation: int = 1000,
        test: int | None = None,
        attack_steps: int = 10,
        pgd_steps: int = 20,
        autoattack: int = 0,
        sweep: Iterable[float] = (),
        batch_size: int = 128,
    ) -> None:
        self.sizes: dict[str, Any] = {"train": train, "validation": validation, "test": test}
        self.attack_steps, self.pgd_steps = attack_steps, pgd_steps
        self.autoattack = autoattack if importlib.util.find_spec("pyautoattack") else 0
        self.sweep = tuple(sweep)
        for radius in self.sweep:
            eps(radius)
        self.batch_size = batch_size
        names = [TRAIN_ACCURACY, *ATTACKS, *MISSED, WORST, *([AUTOATTACK] if self.autoattack else [])]
        self.derived = dict.fromkeys(names, True)

    def network(self) -> nn.Module:
        """Images -> logits."""
        raise NotImplementedError

    def auxiliary(self) -> nn.Module:
        """Gradients -> logits of the image's class."""
        raise NotImplementedError

    def model(self) -> nn.Module:
        """The network, as a trial wants it."""
        return Classifier(self.network())

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    def shared_params(self, model: nn.Module) -> None:
        """There is one loss and nothing to share."""
        return

    # -- along the way -----------------------------------------------------------------------------------

    def after_epoch(self, model: nn.Module, splits: Splits, epoch: int) -> dict[str, float]:
        """About `CURVE_POINTS` times: `course`, on the first `CURVE_IMAGES` test images."""
        every = max(1, self.epochs // CURVE_POINTS)
        if epoch % every and epoch not in (1, self.epochs):
            return {}
        network = network_of(model)
        x, y = as_bytes(splits.test).everything(CURVE_IMAGES)
        device = next(network.parameters()).device
        return self.course(network, x.to(device), y.to(device))

    def course(self, network: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """What stands up to three attacks, how large logits are, and where their loss has no gradient."""
        with without_tf32():
            attacked = {
                "FGSM": fgsm(network, x, y, self.eps),
                "iFGSM": ifgsm(network, x, y, self.eps, steps=self.attack_steps),
                "PGD margin": pgd(network, x, y, self.eps, steps=self.pgd_steps, loss="margin"),
            }
            with modes_restored(network), torch.no_grad():
                found = {f"under {name}": accuracy(network, images, y) for name, images in attacked.items()}
                sizes = network(x).abs().amax(1)
                gradientless = float(without_gradient(network, x, y).double().mean())
        sized = {"largest logit": float(sizes.max()), "median largest logit": float(sizes.median())}
        return {**found, **sized, ZERO_GRADIENT: gradientless}

    # -- the judgement -----------------------------------------------------------------------------------

    def final_evaluation(self, model: nn.Module, splits: Splits, context: ArmContext) -> FinalEvaluation:
        """Every attack on the test images, and the verdict."""
        network = network_of(model)
        x, y = as_bytes(splits.test).everything()
        surrogate = self._surrogate(context)
        report = evaluate(
            network,
            x,
            y,
            eps=self.eps,
            attacks=self._attacks(surrogate),
            sweep=self.sweep,
            seed=context.seed,
            batch_size=self.evaluation_batch_size // 4,
        )
        metrics = {TRAIN_ACCURACY: accuracy_on(network, splits.train, self.evaluation_batch_size)}
        metrics |= {name: value for name, value in report.accuracy.items() if name in self.derived}
        metrics |= {f"{name}, target missed": value for name, value in report.not_reached.items()}
        metrics[WORST] = report.worst_case_accuracy
        record: dict[str, Any] = {
            "robustness": report.as_dict(),
            "landscape": slices(network, x[:SLICES], y[:SLICES], self.eps, seed=context.seed),
        }
        if self.autoattack:
            few = slice(None, self.autoattack)
            strong = evaluate(
                network, x[few], y[few], eps=self.eps, attacks=(), autoattack=True, seed=context.seed
            )
            metrics[AUTOATTACK] = strong.accuracy[AUTOATTACK]
            record["autoattack_examples"] = strong.examples
        return FinalEvaluation(
            metrics,
            words={"gradient masking": masking_words(report)},
            remarks=[str(report.verdict)],
            record=record,
        )

    def _surrogate(self, context: ArmContext) -> nn.Module | None:
        """The baseline of the same seed: what transfers from it needs no gradient of the defense."""
        if BASELINE not in context.checkpoints:
            return None
        model = self.model().to(context.device)
        model.load_state_dict(context.weights_of(BASELINE))
        return network_of(model).eval()

    def _attacks(self, surrogate: nn.Module | None) -> tuple[Attack, ...]:
        return standard_attacks(steps=self.attack_steps, pgd_steps=self.pgd_steps, surrogate=surrogate)


def masking_words(report: RobustnessReport) -> str:
    """The verdict in a cell of the table; the reasons stand below it."""
    return "suspected" if report.verdict.suspected else "no sign"


def slices(network: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> dict[str, Any]:
    """The loss on a plane through each image, [B, points, points], up to 3 eps away."""
    device = next(network.parameters()).device
    offsets, losses = loss_landscape(network, x.to(device), y.to(device), 3 * eps, points=POINTS, seed=seed)
    return {
        "offsets": [round(each, 4) for each in offsets.tolist()],
        "losses": [[[round(value, 4) for value in row] for row in plane] for plane in losses.tolist()],
    }


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers, in eval mode."""
    return float((network.eval()(x).argmax(1) == y).double().mean())


@torch.no_grad()
def accuracy_on(network: nn.Module, split: Any, batch_size: int) -> float:
    """Accuracy on a whole split, without augmentation."""
    network.eval()
    device = next(network.parameters()).device
    right = 0
    for indices in torch.split(torch.arange(len(split)), batch_size):
        x, targets = split.batch(indices, None)
        right += int((network(x.to(device)).argmax(1).cpu() == targets["class"]).sum())
    return right / len(split)


DEPARTURES = (
    "The last row, PGD training, and the columns PGD, noise, transfer, worst case and AutoAttack are not in "
    "the paper: they say how far the others can be trusted.",
    "AutoAttack takes long and runs on the first test images only, 20 at small and 1,000 at full scale: its "
    "column rests on fewer images than its neighbours.",
    "Targeted columns count the TRUE label, which the paper's hardly fit: its undefended net keeps far more "
    "under an attack aimed at the least likely class than under one aimed at a random one. The columns "
    "'target missed' are the other reading, how often another class than the target is named; no check reads "
    "them.",
    "An attack's model is in eval mode, in training too; FGSM training puts both halves into one batch.",
)


class ImageDefense(DefenseProblem):
    """The defenses on images of 32x32 for a ResNet-18; the other options are those of `DefenseProblem`.

    Args:
        data: where the images come from, see `images.SOURCES`.
        data_root: the folder of the data sets.
        width: channels of the network's first layer, 64 in the paper.
        options: of `DefenseProblem`.

    """

    default_data = "cifar10"
    papers_data = "cifar10"

    def __init__(
        self, data: str | None = None, data_root: str | None = None, width: int = 64, **options: Any
    ) -> None:
        super().__init__(**options)
        self.data = data or self.default_data
        self.data_root = data_root
        self.width = width

    def datasets(self, seed: int) -> Splits:
        """The same images for every seed."""
        found = images.load(self.data, default_data_root(self.data_root), recipe=self.name)
        return splits_of(found, augment=crop, **self.sizes)

    def has_papers_data(self) -> bool:
        """The paper's data set at its full size and the paper's width."""
        return self.data == self.papers_data and self.width == 64 and self.sizes["train"] is None

    def network(self) -> nn.Module:
        """Images -> logits."""
        return resnet18(images.CLASSES, width=self.width)

    def auxiliary(self) -> nn.Module:
        """Gradients -> logits of the image's class."""
        return networks.resnet18(images.CLASSES, width=self.width)
