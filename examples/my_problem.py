"""Which digit is it, and does it have a closed loop? One encoder, two losses, scikit-learn's digits."""

from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from manyloss.lab import Problem, Splits, TensorSplit


class DigitAndLoop(Problem):
    epochs = 10
    batch_size = 64
    losses = {"digit": F.cross_entropy, "loop": F.cross_entropy}
    metrics = {
        "digit": partial(MulticlassAccuracy, 10, average="micro"),
        "loop": partial(MulticlassAccuracy, 2, average="micro"),
    }

    def datasets(self, seed):
        images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
        images = images.float() / 16
        loops = torch.isin(labels, torch.tensor([0, 6, 8, 9])).long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        parts = order.split([1200, 250, 347])
        return Splits(*(TensorSplit(images[p], {"digit": labels[p], "loop": loops[p]}) for p in parts))

    def encoder(self):
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU())

    def heads(self):
        return {"digit": nn.Linear(32, 10), "loop": nn.Linear(32, 2)}
