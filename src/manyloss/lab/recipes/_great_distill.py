"""The distillations of GREAT 2018, section 3.2 and table 3: a student, a teacher, and what passes on.

**Rows.** baseline: the student alone; distillation: soft targets, (1 - a) CE + a T^2 KL; great: an adversary
tells the student's input gradients from the teacher's, alpha 0.1, minimax as in the paper's algorithm 2;
sobolev: the gradients matched directly. The teacher is trained once and used by every row, every seed and
every study whose run folders lie side by side.

**Regimes.** All training images, or a stratified 5 % of them; the teacher always had all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from manyloss.adversarial import GradientDistillation, SobolevTraining, SoftTargets
from manyloss.lab.arms import Arm, ArmContext
from manyloss.lab.datasets import default_data_root, images
from manyloss.lab.problem import FinalEvaluation, Splits
from manyloss.lab.recipes._adversarial_training import Classifier, LibraryMethod, network_of
from manyloss.lab.recipes._great import GreatProblem, crop_and_flip, splits_of
from manyloss.lab.training import to_channels_last

BASELINE, TEACHER = "baseline", "teacher"
ROWS = (BASELINE, "distillation", "great")
#: What differentiates the student's input gradients is faster in PyTorch's own layout, and all else is not.
OWN_LAYOUT: Mapping[str, Any] = {"channels_last": False}
#: Exploratory: a discriminator that does not win, and a student that learns even where it does.
SLOWER = "great:adversarial=non_saturating:discriminator_lr=0.0001"
#: The smoke scale of the recipes on 32x32 images.
SMOKE: Mapping[str, Any] = {
    "epochs": 1,
    "seeds": 1,
    "data": "digits",
    "width": 4,
    "train": 300,
    "validation": 100,
    "test": 50,
    "teacher_epochs": 1,
    "batch_size": 32,
}
SPARSE = 0.05
#: In a trial's record: the teacher's share of right answers on the test images.
TAUGHT_BY = "teacher_accuracy"
#: A teacher who is no further ahead of the student alone has nothing to show that one could see.
HARDLY_BETTER = 0.01


class DistillationProblem(GreatProblem):
    """A student network on images; a subclass gives the three networks and the data."""

    baseline = BASELINE
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = {"class": F.cross_entropy}
    classes = images.CLASSES
    #: Which network is trained: "student", or "teacher" in the teacher's own trial.
    role = "student"
    share = 1.0
    teacher_epochs = 100

    def __init__(self) -> None:
        make = partial(MulticlassAccuracy, num_classes=self.classes, average="micro")
        self.metrics: Mapping[str, Callable[[], Metric]] = {"class": make}

    @abstractmethod
    def student(self) -> nn.Module:
        """Images -> logits."""

    @abstractmethod
    def teacher(self) -> nn.Module:
        """Images -> logits."""

    @abstractmethod
    def discriminator(self) -> nn.Module:
        """Input gradients -> one logit each."""

    def model(self) -> nn.Module:
        """The student, or in the teacher's own trial the teacher."""
        return Classifier(self.teacher() if self.role == "teacher" else self.student())

    def trained_teacher(self, context: ArmContext) -> nn.Module:
        """The prerequisite's network, with its weights."""
        model = Classifier(self.teacher()).to(context.device)
        model.load_state_dict(context.weights_of(TEACHER))
        to_channels_last(model, context.device)
        return model.network.eval()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam."""
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    def shared_params(self, model: nn.Module) -> None:
        """There is one loss and nothing to share."""
        return

    def final_evaluation(
        self, model: nn.Module, splits: Splits, context: ArmContext
    ) -> FinalEvaluation | None:
        """Say how good the teacher was: a weak one cannot teach."""
        if TEACHER not in context.prerequisites:
            return None
        accuracy = context.prerequisites[TEACHER]["test"]["class/accuracy"]
        return FinalEvaluation(
            words={"teacher": f"{accuracy:.1%}"}, record={TAUGHT_BY: accuracy, "share": self.share}
        )

    def reasons(self, trials: Mapping[str, Sequence[Any]]) -> Sequence[str]:
        """Whether the teacher knew more than the student learns alone."""
        everyone = [each for found in trials.values() for each in found]
        taught = [each.record[TAUGHT_BY] for each in everyone if TAUGHT_BY in each.record]
        alone = [each.test["class/accuracy"] for each in trials.get(BASELINE, ())]
        if not taught or not alone or fmean(taught) > fmean(alone) + HARDLY_BETTER:
            return ()
        return (
            f"Hardly anything to teach: the teacher is right on {fmean(taught):.1%} of the test images, the "
            f"student alone on {fmean(alone):.1%}.",
        )


def _teacher_of(context: ArmContext) -> nn.Module:
    problem = context.problem
    if isinstance(problem, DistillationProblem) and TEACHER in context.checkpoints:
        return problem.trained_teacher(context)
    return nn.Identity()  # only the settings are tried


def _distillation(context: ArmContext, alpha: float, temperature: float) -> LibraryMethod:
    student = network_of(context.model)
    return LibraryMethod(SoftTargets(student, _teacher_of(context), alpha=alpha, temperature=temperature))


def _sobolev(context: ArmContext, weight: float) -> LibraryMethod:
    return LibraryMethod(SobolevTraining(network_of(context.model), _teacher_of(context), weight=weight))


def _great(
    context: ArmContext, alpha: float, adversarial: str, discriminator_lr: float, teacher_gradient: str
) -> LibraryMethod:
    problem = context.problem
    if isinstance(problem, DistillationProblem) and TEACHER in context.checkpoints:
        discriminator = problem.discriminator().to(context.device)
        to_channels_last(discriminator, context.device)
    else:
        discriminator = nn.Identity()
    return LibraryMethod(
        GradientDistillation(
            network_of(context.model),
            _teacher_of(context),
            discriminator,
            alpha=alpha,
            adversarial=adversarial,
            discriminator_lr=discriminator_lr,
            teacher_gradient=teacher_gradient,
        )
    )


def distillation_arms(*, alpha: float, temperature: float) -> dict[str, Arm]:
    """The rows; ``alpha`` and ``temperature`` are those of the soft targets."""
    needs = (TEACHER,)
    arms = (
        Arm(BASELINE, "The student alone, with cross-entropy."),
        Arm(
            TEACHER,
            "The teacher, on all images.",
            problem={"role": "teacher", "share": 1.0},
            epochs="teacher_epochs",
            shared=True,
            shared_despite=("data_root", "share", "recipe_name"),
        ),
        Arm(
            "distillation",
            "Soft targets: the teacher's softened output is imitated.",
            _distillation,
            {"alpha": alpha, "temperature": temperature},
            search={"alpha": (0.1, 0.5, 0.9, 0.95, 0.99), "temperature": (1.0, 4.0, 6.0, 20.0)},
            requires=needs,
        ),
        Arm(
            "great",
            "GREAT: input gradients that an adversary cannot tell from the teacher's.",
            _great,
            {
                "alpha": 0.1,
                "adversarial": "minimax",
                "discriminator_lr": 1e-3,
                "teacher_gradient": "loss",
            },
            problem=OWN_LAYOUT,
            search={
                "alpha": (0.01, 0.1, 0.5),
                "adversarial": ("minimax", "non_saturating"),
                "discriminator_lr": (1e-4, 1e-3),
            },
            requires=needs,
        ),
        Arm(
            "sobolev",
            "Sobolev training: the squared distance of the input gradients.",
            _sobolev,
            {"weight": 1.0},
            problem=OWN_LAYOUT,
            search={"weight": (0.01, 0.1, 1.0, 10.0, 100.0)},
            requires=needs,
        ),
    )
    return {arm.name: arm for arm in arms}


class SmallImageDistillation(DistillationProblem):
    """Ten classes of 32x32.

    Args:
        recipe_name: whose numbers these are.
        share: of the training images that the student sees, 1 or 0.05.
        data: where the images come from, see `images.SOURCES`.
        data_root: the folder of the data sets.
        width: channels of the residual networks' first layer, 64 in the paper (and of ResNeXt's groups).
        train: how many training images there are in all, stratified; None for all.
        validation: how many of the training images are held out.
        test: how many test images are used, stratified; None for all.
        teacher_epochs: how long the teacher is trained.
        batch_size: examples per step, 128 in the paper.

    """

    papers_data = "cifar10"

    def __init__(
        self,
        recipe_name: str = "",
        share: float = 1.0,
        data: str = "cifar10",
        data_root: str | None = None,
        width: int = 64,
        train: int | None = None,
        validation: int = 1000,
        test: int | None = None,
        teacher_epochs: int = 100,
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        self.name = recipe_name
        self.share = share
        self.data = data
        self.data_root = data_root
        self.width = width
        self.train, self.validation, self.test = train, validation, test
        self.teacher_epochs = teacher_epochs
        self.batch_size = batch_size

    def has_papers_data(self) -> bool:
        """CIFAR-10 at its full size, and the paper's widths."""
        return self.data == self.papers_data and self.width == 64 and self.train is None

    def datasets(self, seed: int) -> Splits:
        """The same images for every seed; 5 % are 5 % of all that there are before validation is held out."""
        found = images.load(self.data, default_data_root(self.data_root), recipe=self.name)
        everything = len(found.train_labels) if self.train is None else self.train
        rest = min(everything, len(found.train_labels) - self.validation)
        count = rest if self.share == 1.0 else round(self.share * everything)
        return splits_of(
            found, train=count, validation=self.validation, test=self.test, augment=crop_and_flip
        )


PAPER = "Gradient Adversarial Training of Neural Networks (2018), table 3"
TEACHER_IS_OURS = "The paper's teachers were downloaded; ours is trained once, and its accuracy is shown."
