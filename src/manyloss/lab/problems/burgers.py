"""Burgers' equation by a physics-informed network: how well the equation, the start and both sides are met.

u_t + u u_x = nu u_xx on x in [-1, 1], t in [0, 1]; u(x, 0) = -sin(pi x), u(-1, t) = u(1, t) = 0; nu is
0.04 / pi. The exact u is known (Cole-Hopf), and is for validation and test only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, RelativeSquaredError

from manyloss.lab.problem import Outputs, Problem, Splits, Targets, TensorSplit
from manyloss.lab.recipes import Recipe

NU = 0.04 / math.pi
WIDTH, NODES = 32, 100


def exact(x: Tensor, t: Tensor) -> Tensor:
    """The solution at x [B], t [B] > 0: the Cole-Hopf transform, integrated by Gauss-Hermite quadrature."""
    z, w = (torch.from_numpy(each) for each in np.polynomial.hermite.hermgauss(NODES))
    y = x.double()[:, None] - z * (4 * NU * t.double()[:, None]).sqrt()
    heat = w * torch.exp(-torch.cos(math.pi * y) / (2 * math.pi * NU))
    return (-(torch.sin(math.pi * y) * heat).sum(1) / heat.sum(1)).to(x.dtype)


def points(count: int, seed: int) -> TensorSplit:
    """(x, t) of as many places inside, at the start and on a side, [N, 3, 2]; the solution inside, [N]."""
    places = torch.rand(count, 3, 2, generator=torch.Generator().manual_seed(seed))
    places[:, :2, 0] = 2 * places[:, :2, 0] - 1
    places[:, 1, 1] = 0
    places[:, 2, 0] = 1 - 2 * (torch.arange(count) % 2)
    return TensorSplit(places, {"solution": exact(*places[:, 0].unbind(1))})


class Solution(nn.Module):
    """u(x, t), and what is wrong with it: at places [B, 3, 2] four outputs [B].

    The residual reads derivatives of u by x and t, so no layer has features that all losses pass.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = pairwise((2, WIDTH, WIDTH, WIDTH))
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.Tanh())]
        self.layers = nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    def u(self, x: Tensor, t: Tensor) -> Tensor:
        """x, t [B] -> [B]."""
        found: Tensor = self.layers(torch.stack([x, 2 * t - 1], 1))[:, 0]
        return found

    def forward(self, places: Tensor) -> tuple[None, dict[str, Tensor]]:
        """No features; residual, start, sides and the solution."""
        (x, t), (x_start, t_start), (x_side, t_side) = (places[:, kind].unbind(1) for kind in range(3))
        with torch.enable_grad():
            x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
            u = self.u(x, t)
            u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
            (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        return None, {
            "residual": u_t + u * u_x - NU * u_xx,
            "start": self.u(x_start, t_start) + torch.sin(math.pi * x_start),
            "sides": self.u(x_side, t_side),
            "solution": u.detach(),
        }


class Burgers(Problem):
    """Options: ``places``, how many inside, at the start and on the sides there are to train on."""

    name = "burgers"
    epochs = 200
    batch_size = 256
    losses: Mapping[str, Callable[[Any, Any], Tensor]] = dict.fromkeys(
        ("residual", "start", "sides"), nn.functional.mse_loss
    )
    metrics: Mapping[str, Callable[[], Metric]] = {
        "solution/relative error": partial(RelativeSquaredError, squared=False)
    }

    def __init__(self, places: int = 4096) -> None:
        self.places = places

    def datasets(self, seed: int) -> Splits:
        """Other places for every seed; 2,000 validate, 4,000 test."""
        return Splits(*(points(count, 3 * seed + i) for i, count in enumerate((self.places, 2000, 4000))))

    def model(self) -> nn.Module:
        """Three layers of 32, tanh."""
        return Solution()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Adam at 3e-3."""
        return torch.optim.Adam(parameters, lr=3e-3)

    def shared_params(self, model: nn.Module) -> list[Tensor]:
        """All: every loss reads the whole network."""
        return list(model.parameters())

    compared_at = shared_params

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """Mean squares."""
        return {name: outputs[name].square().mean() for name in self.losses}


recipe = Recipe(
    name="burgers",
    summary="Burgers' equation by a physics-informed network: the relative error of the solution.",
    problem=Burgers,
    arms=("equal", "static:residual=1:start=10:sides=10", "relobralo", "gradnorm"),
    seeds=5,
    paper="board",
    gpu_scales=(),
    scales={"smoke": {"epochs": 1, "seeds": 1, "places": 256}, "small": {"seeds": 3}},
)
