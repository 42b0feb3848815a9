# ruff: noqa: RUF012
"""A problem of two losses, without and with arms of its own."""

import torch.nn.functional as F

from manyloss.lab import Arm, Problem
from manyloss.lab.arms import BUILT_IN


class Plain(Problem):
    losses = {"left": F.mse_loss, "right": F.mse_loss}


class Two(Plain):
    width = 3
    arms = {
        "wide": Arm("wide", "More neurons.", problem={"width": 30}),
        "wrong": Arm("wrong", "A slip.", problem={"widht": 30}),
        "gradnorm": Arm(
            "gradnorm", "Ours.", BUILT_IN["gradnorm"].method, {"alpha": 0.1, "lr": 1.0, "initial": "first"}
        ),
    }
