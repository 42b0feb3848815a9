"""GradDrop 2020, section 4.3, tables 2 and 5: mixed batches of a data set to learn and one to learn from.

**Network.** DenseNet-100-BC (k = 12), shared by both data sets but for their BatchNorms; a linear head each.
Gradients are merged at the pooled features, the last layer before the heads. Each loss has its own half of
the batch, so that GradDrop sums sgn(A) o grad over the batch, and MGDA compares there.

**Training.** Cross-entropies, batches of 8 + 8, pixels / 256 without augmentation, Adam at 1e-3, constant for
two fifths of the training and then times 0.94 every 2,000 of 250,000 steps.

**Rows of table 2.** single:transfer, equal (mixed batches), clipping, gradient-penalty, mgda, gradnorm,
graddrop, gradnorm-random-graddrop, gradnorm-graddrop. GradDrop has k = 0.25 and leak 1 on the source. Rows of
table 5 and figure 5: gradnorm-graddrop with leaks that sum to 1; its last row is the one of table 2.

**Errors.** Top-1 error and loss of the transfer set's test images, after the epoch with the lowest error on
validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.lab import checks
from manyloss.lab.arms import BUILT_IN, Arm, ArmContext
from manyloss.lab.datasets import cifar100, clothing, default_data_root, imagenet32, images
from manyloss.lab.metrics import CrossEntropy, ErrorRate
from manyloss.lab.models.densenet import DenseNet
from manyloss.lab.problem import Problem, Splits
from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes.graddrop_celeba import OPEN
from manyloss.weighting import MGDA, GradNorm

TASKS = ("transfer", "source")
#: The share of the training at a constant rate, and what the rate falls to in the rest: 0.94^75.
CONSTANT, LAST = 0.4, 0.94**75

Labelled = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class MixedBatches:
    """Images of the transfer set and, in training, as many of the source, drawn at random.

    Args:
        transfer: images uint8 [N, 3, 32, 32] and labels [N].
        source: likewise; None where only the transfer set counts.

    """

    def __init__(self, transfer: Labelled, source: Labelled | None = None) -> None:
        self.transfer, self.source = transfer, source

    def __len__(self) -> int:
        return len(self.transfer[1])

    def batch(
        self, indices: Tensor, generator: torch.Generator | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Two tensors [B, 3, 32, 32] in [0, 1) and two of labels [B]; one of each in evaluation."""
        chosen = {"transfer": (self.transfer, indices)}
        if self.source is not None and generator is not None:
            drawn = torch.randint(len(self.source[1]), (len(indices),), generator=generator)
            chosen["source"] = (self.source, drawn)
        places = {task: (part, which.numpy()) for task, (part, which) in chosen.items()}
        return (
            {task: torch.from_numpy(part[0][which]) / 256 for task, (part, which) in places.items()},
            {task: torch.from_numpy(part[1][which]) for task, (part, which) in places.items()},
        )


class TwoDomains(nn.Module):
    """Images by task -> features of all, one task after another [sum of B, C], and logits by task.

    Args:
        classes: task -> how many; the order is that of the domains and of the rows of the features.
        depth: of the DenseNet.
        growth: its k.

    """

    def __init__(self, classes: Mapping[str, int], depth: int, growth: int) -> None:
        super().__init__()
        self.tasks = tuple(classes)
        self.encoder = DenseNet(depth, growth, len(classes))
        self.heads = nn.ModuleList(nn.Linear(self.encoder.channels, count) for count in classes.values())

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """A task without images has no output."""
        there = [(domain, task) for domain, task in enumerate(self.tasks) if task in inputs]
        features = torch.cat([self.encoder(inputs[task], domain) for domain, task in there])
        parts = torch.split(features, [len(inputs[task]) for _, task in there])
        return features, {task: self.heads[d](part) for (d, task), part in zip(there, parts, strict=True)}


def _graddrop(seed: int, k: float, source_leak: float = 1.0) -> GradDrop:
    """The two leaks sum to 1, as in table 5."""
    return GradDrop({"transfer": 1.0 - source_leak, "source": source_leak}, k, seed=seed)


def _graddrop_alone(context: ArmContext, **options: Any) -> MultiLoss:
    return MultiLoss(aggregator=_graddrop(context.seed, **options))


def _with_gradnorm(context: ArmContext, alpha: float, lr: float, **options: Any) -> MultiLoss:
    return MultiLoss(GradNorm(alpha, lr), _graddrop(context.seed, **options))


def _mgda(context: ArmContext) -> MultiLoss:  # noqa: ARG001
    return MultiLoss(MGDA(), measure_at="virtual_layer")


K = 0.25
GRADNORM: Mapping[str, Any] = {"alpha": 1.5, "lr": 0.025}
#: Of GradDrop; the leaks are what the experiment is about.
DROPPED = {"k": BUILT_IN["graddrop"].search["k"]}


class Transfer(Problem):
    """Learn one data set with the help of another.

    Args:
        data: the transfer set: "cifar100", or a set of ten classes.
        source: what is learned from: "imagenet32", "clothing", or a set of ten classes.
        data_root: the folder that has both.
        train: how many images of the transfer set are used; None for all.
        test: how many of its test images, and at most of its validation images; None for all.
        depth: layers of the DenseNet, 100 in the paper.
        growth: its k, 12 in the paper.
        batch_size: examples per step of each set, 8 in the paper.

    """

    name = "graddrop-transfer"
    epochs = 20
    evaluation_batch_size = 500
    channels_last = True
    drawn_against: Mapping[str, str] = {"transfer/loss": "source_leak"}
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(TASKS, F.cross_entropy)
    arms: Mapping[str, Arm] = {
        "graddrop": Arm(
            "graddrop",
            "GradDrop; the source's gradient leaks.",
            _graddrop_alone,
            {"k": K},
            search=DROPPED,
        ),
        "gradnorm-graddrop": Arm(
            "gradnorm-graddrop",
            "GradNorm and GradDrop; the leaks of the two losses sum to 1.",
            _with_gradnorm,
            {**GRADNORM, "k": K, "source_leak": 1.0},
            search={**BUILT_IN["gradnorm"].search, **DROPPED},
        ),
        "gradnorm-random-graddrop": Arm(
            "gradnorm-random-graddrop",
            "GradNorm and Random GradDrop.",
            _with_gradnorm,
            {**GRADNORM, "k": 0.0},
            search=BUILT_IN["gradnorm"].search,
        ),
        "mgda": Arm("mgda", "MGDA, compared at the virtual layer.", _mgda),
    }

    def __init__(
        self,
        data: str = "cifar10",
        source: str = "clothing",
        data_root: str | None = None,
        train: int | None = None,
        test: int | None = None,
        depth: int = 16,
        growth: int = 6,
        batch_size: int = 8,
    ) -> None:
        for word, given, more in (("data", data, "cifar100"), ("source", source, "imagenet32")):
            known = [*images.SOURCES, more, *(["clothing"] if word == "source" else [])]
            if given not in known:
                raise checks.unknown_source(self.name, given, known, word)
        self.data, self.source, self.data_root = data, source, data_root
        self.train, self.test = train, test
        self.depth, self.growth, self.batch_size = depth, growth, batch_size
        self.classes = {
            "transfer": cifar100.CLASSES if data == "cifar100" else images.CLASSES,
            "source": imagenet32.CLASSES if source == "imagenet32" else images.CLASSES,
        }
        self.metrics: Mapping[str, Callable[[], Metric]] = {
            "transfer/error": partial(ErrorRate, num_classes=self.classes["transfer"], average="micro"),
            "transfer/loss": CrossEntropy,
        }

    def datasets(self, seed: int) -> Splits:
        """A fifth of the training images is for validation (40,000 + 10,000 on CIFAR-100), by the seed."""
        root = default_data_root(self.data_root)
        found = (
            cifar100.load(root) if self.data == "cifar100" else images.load(self.data, root, recipe=self.name)
        )
        order = np.random.default_rng(seed).permutation(len(found.train_labels))
        held_out = len(order) // 5
        validation, rest = order[:held_out][: self.test], order[held_out:][: self.train]
        return Splits(
            MixedBatches((found.train_images[rest], found.train_labels[rest]), self._source()),
            MixedBatches((found.train_images[validation], found.train_labels[validation])),
            MixedBatches((found.test_images[: self.test], found.test_labels[: self.test])),
        )

    def _source(self) -> Labelled:
        root = default_data_root(self.data_root)
        if self.source in images.SOURCES:
            found = images.load(self.source, root, recipe=self.name)
            return found.train_images, found.train_labels
        return imagenet32.load(root) if self.source == "imagenet32" else clothing.load(root)

    def has_papers_data(self) -> bool:
        """ImageNet and CIFAR-100 in the paper's network."""
        own = (self.data, self.source, self.depth, self.growth, self.batch_size)
        return own == ("cifar100", "imagenet32", 100, 12, 8) and self.train is None and self.test is None

    def model(self) -> nn.Module:
        """A row of one data set has its network for itself."""
        classes = {task: self.classes[task] for task in self.active_names}
        return TwoDomains(classes, self.depth, self.growth)

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Constant, then falling exponentially, at the paper's shares of the training."""
        return LambdaLR(
            optimizer, lambda epoch: LAST ** max(0, (epoch / self.epochs - CONSTANT) / (1 - CONSTANT))
        )

    def score(self, values: Mapping[str, float], first: Mapping[str, float]) -> float:
        """The epoch with the lowest error is tested."""
        return -values["transfer/error"]


SWEEP = tuple(f"gradnorm-graddrop:source_leak={leak}" for leak in (0.0, 0.25, 0.5, 0.75))

recipe = Recipe(
    name="graddrop-transfer",
    summary="Mixed batches of two data sets, of which one counts: GradDrop on losses with rows of their own.",
    problem=Transfer,
    arms=(
        "single:transfer",
        "equal",
        "clipping",
        "gradient-penalty",
        "mgda",
        "gradnorm",
        "graddrop",
        "gradnorm-random-graddrop",
        "gradnorm-graddrop",
        *SWEEP,
    ),
    seeds=3,
    paper="Just Pick a Sign: GradDrop (2020), section 4.3, table 2, appendix A.5, table 5, figures 4 and 5",
    departures=(
        OPEN,
        "ImageNet is the official 32x32 version, shrunk by others than the authors.",
        "Table 5 ends in the numbers of GradNorm + GradDrop in table 2, so the sweep is with GradNorm.",
        "The paper does not say where MGDA compares: losses with rows of their own are orthogonal at the "
        "features, so it does at the virtual layer; GradNorm and the gradient penalty at the last shared "
        "convolution.",
        "The learning rate falls once an epoch, at the paper's shares of the training.",
        "Small is 1,000 images of CIFAR-10 with photos of clothes as the source, a DenseNet of 16 layers "
        "with k = 6, batches of 16 + 16.",
    ),
    scales={
        "smoke": {
            "epochs": 1,
            "seeds": 1,
            "data": "digits",
            "source": "digits",
            "train": 32,
            "test": 32,
            "depth": 10,
            "growth": 2,
        },
        "small": {"epochs": 12, "seeds": 3, "train": 1000, "test": 1000, "batch_size": 16},
        "full": {
            "epochs": 50,
            "seeds": 3,
            "data": "cifar100",
            "source": "imagenet32",
            "depth": 100,
            "growth": 12,
        },
    },
)
