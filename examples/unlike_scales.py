"""Which digit is it, and how much ink has it? The second loss counts squared grey levels: far larger."""

from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from manyloss.lab import Problem, Splits, TensorSplit


class DigitAndInk(Problem):
    epochs = 10
    batch_size = 64
    losses = {"digit": F.cross_entropy, "ink": F.mse_loss}
    metrics = {
        "digit": partial(MulticlassAccuracy, 10, average="micro"),
        "ink": partial(MeanSquaredError, squared=False),  # in grey levels; lower is better
    }

    def datasets(self, seed):
        images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
        images = images.float()
        ink = images.sum(1, keepdim=True)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        parts = order.split([1200, 250, 347])
        return Splits(*(TensorSplit(images[p] / 16, {"digit": labels[p], "ink": ink[p]}) for p in parts))

    def encoder(self):
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU())

    def heads(self):
        return {"digit": nn.Linear(32, 10), "ink": nn.Linear(32, 1)}
