# ruff: noqa: RUF012
"""A problem on real digits that trains in a second: dropout, BatchNorm, momentum and a schedule included."""

import os
import random
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from manyloss.lab import Arm, Problem, Splits, TensorSplit
from manyloss.lab.arms import BUILT_IN, sum_of_losses


def digit_accuracy():
    return MulticlassAccuracy(10, average="micro")


def from_equal(context):
    context.model.load_state_dict(context.weights_of("equal"))
    return sum_of_losses(context)


class DigitAndInk(Problem):
    """Which digit is it, and how much ink does it take?

    The constructor's options make it fail in the ways that real problems do; ``once`` names a file that keeps
    count over processes.
    """

    name = "digit-and-ink"
    epochs = 3
    losses = {"digit": F.cross_entropy, "ink": F.mse_loss}
    metrics = {"digit": digit_accuracy, "ink": MeanSquaredError}
    learning_rate = 0.05
    measured = True
    fail_in_step = None
    how = "raise"
    looks = False
    arms = {
        "looking": Arm("looking", "Looks at the model after every epoch.", problem={"looks": True}),
        "explode": Arm("explode", "A learning rate far too high.", problem={"learning_rate": 1e30}),
        "fail": Arm("fail", "Crashes in the fifth step.", problem={"fail_in_step": 5}),
        "mgda-fails": Arm(
            "mgda-fails", "Crashes after it warned.", BUILT_IN["mgda"].method, problem={"fail_in_step": 25}
        ),
        "continued": Arm("continued", "Begins where equal ended.", from_equal, requires=("equal",)),
        "killed": Arm("killed", "Is always killed.", problem={"fail_in_step": 5, "how": "kill"}),
        "killed-once": Arm(
            "killed-once", "Is killed once.", problem={"fail_in_step": 30, "how": "kill once"}
        ),
    }

    def __init__(self, pause=0.0, once=None):
        self.pause = pause
        self.once = once
        self.steps = 0

    def datasets(self, seed):
        digits = load_digits()
        x = torch.tensor(digits.data, dtype=torch.float32)[:, None].reshape(-1, 1, 8, 8) / 16
        y = {"digit": torch.tensor(digits.target), "ink": x.mean((1, 2, 3))[:, None]}
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))

        def part(start, end):
            rows = order[start:end]
            return TensorSplit(x[rows], {task: target[rows] for task, target in y.items()})

        return Splits(part(0, 1280), part(1280, 1500), part(1500, None))

    def encoder(self):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(144, 32),
        )

    def heads(self):
        return {"digit": nn.Linear(32, 10), "ink": nn.Linear(32, 1)}

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)

    def schedule(self, optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)

    def measured_losses(self, model, inputs, targets):
        return super().measured_losses(model, inputs, targets) if self.measured else None

    def after_epoch(self, model, splits, epoch):
        if not self.looks:
            return {}
        model.eval()
        noisy = torch.randn(20, 1, 8, 8), np.random.rand(), random.random()  # noqa: NPY002
        with torch.no_grad():
            return {"epoch": epoch, "size of noise": float(model(noisy[0])[0].norm())}

    def training_step(self, model, multi, inputs, targets, shared_params):
        self.steps += 1
        if self.pause:
            time.sleep(self.pause)
        if self.steps == self.fail_in_step:
            if self.how == "raise":
                raise RuntimeError("the fifth step is too much")
            if self.how == "kill" or not os.path.exists(self.once):
                if self.how == "kill once":
                    open(self.once, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(model, multi, inputs, targets, shared_params)
