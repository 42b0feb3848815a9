"""USPS and MNIST: two sets of handwritten digits, one encoder, a batch of both; each loss has its own rows.

MNIST is its 10,000 test digits here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from manyloss.lab.datasets import default_data_root, mnist, usps
from manyloss.lab.datasets.files import find_file
from manyloss.lab.problem import Outputs, Splits, Targets, TensorSplit
from manyloss.lab.problems._separate import BatchSeparated
from manyloss.lab.recipes import Recipe

SETS = ("usps", "mnist")
TEST_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
SIDE, WIDTH, NO_LABEL = 16, 64, -1


class UspsMnist(BatchSeparated):
    """Options: ``data_root``; ``digits``, how many of each set to train on."""

    name = "usps-mnist"
    epochs = 10
    batch_size = 128
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(SETS, F.cross_entropy)
    metrics: Mapping[str, Callable[[], Metric]] = dict.fromkeys(
        SETS, partial(MulticlassAccuracy, 10, average="micro", ignore_index=NO_LABEL)
    )

    def __init__(self, data_root: str | None = None, digits: int = 2000) -> None:
        self.data_root, self.digits = data_root, digits

    def datasets(self, seed: int) -> Splits:
        """As many of each set, drawn anew for every seed; 500 of each validate, 1,500 test."""
        root = default_data_root(self.data_root)
        here = usps.load(root)
        known = {
            "usps": (
                np.concatenate([here.train_images, here.test_images]),
                np.concatenate([here.train_labels, here.test_labels]),
            ),
            "mnist": _shrunk_test_digits(root),
        }
        generator = torch.Generator().manual_seed(seed)
        sizes = [self.digits, 500, 1500]
        parts: list[list[tuple[Tensor, Tensor, int]]] = [[], [], []]
        for place, name in enumerate(SETS):
            images, labels = (torch.from_numpy(each) for each in known[name])
            order = torch.randperm(len(images), generator=generator)
            for part, rows in zip(parts, torch.split(order[: sum(sizes)], sizes), strict=True):
                part.append((images[rows].float()[:, None] / 255, labels[rows], place))
        return Splits(*(_together(part) for part in parts))

    def encoder(self) -> nn.Module:
        """[B, 1, 16, 16] -> [B, 64]"""
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, WIDTH),
            nn.ReLU(),
        )

    def heads(self) -> Mapping[str, nn.Module]:
        """Ten logits per set."""
        return {name: nn.Linear(WIDTH, 10) for name in SETS}

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """Each on the rows of its own set."""
        own = {name: targets[name] != NO_LABEL for name in outputs}
        return {
            name: F.cross_entropy(outputs[name][rows], targets[name][rows]) if bool(rows.any()) else None
            for name, rows in own.items()
        }


def _shrunk_test_digits(root: Any) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's test digits at 16x16, as USPS has them: 20x20 of ink averaged to 16, without the frame."""
    images, labels = (mnist.read_idx(find_file("mnist", name, root)) for name in TEST_FILES)
    shrunk = F.interpolate(
        torch.from_numpy(images[:, 4:24, 4:24].copy()).float()[:, None], size=SIDE, mode="area"
    )
    return shrunk[:, 0].numpy(), labels.astype(np.int64)


def _together(parts: Sequence[tuple[Tensor, Tensor, int]]) -> TensorSplit:
    """Both sets in one split; a row has the label of its own set, and none of the other's."""
    images = torch.cat([images for images, _, _ in parts])
    labels = [torch.full((len(SETS), len(own)), NO_LABEL) for _, own, _ in parts]
    for (_, own, place), rows in zip(parts, labels, strict=True):
        rows[place] = own
    return TensorSplit(images, dict(zip(SETS, torch.cat(labels, dim=1), strict=True)))


recipe = Recipe(
    name="usps-mnist",
    summary="Two sets of digits in one batch, each loss on rows of its own: accuracies.",
    problem=UspsMnist,
    arms=("equal", "gradnorm", "pcgrad", "mgda"),
    seeds=5,
    paper="board",
    scales={"smoke": {"epochs": 1, "seeds": 1, "digits": 128}, "small": {"seeds": 3}},
)
