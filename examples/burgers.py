"""Burgers' equation by a physics-informed network: Adam with a method, then L-BFGS on its frozen weights.

u_t + u u_x = nu u_xx on x in [-1, 1], t in [0, 1], u(x, 0) = -sin(pi x), u(-1, t) = u(1, t) = 0.

    python examples/burgers.py
    manyloss compare examples/burgers.py --methods equal,static:residual=1:start=10:sides=10,relobralo \\
        --metric val/error:min

Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from manyloss import lab  # new

NU = 0.04 / math.pi
ADAM, LBFGS, EVERY = 500, 1000, 1000  # EVERY: iterations on the same weights
INSIDE, EDGE, WIDTH, DEPTH = 1000, 100, 20, 3


def exact(x, t, nodes=100):
    """u(x, t) by the Cole-Hopf transform and Gauss-Hermite quadrature."""
    z, w = np.polynomial.hermite.hermgauss(nodes)
    y = x[:, None] - z * np.sqrt(4 * NU * t)[:, None]
    heat = w * np.exp(-np.cos(np.pi * y) / (2 * np.pi * NU))
    return -(np.sin(np.pi * y) * heat).sum(1) / heat.sum(1)


class Burgers:
    """Random points inside, at t = 0 and on both sides, and a network with one residual per kind of point."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)

        def uniform(rows):
            return torch.rand(rows, 1, generator=generator, dtype=torch.float64)

        self.x, self.t = (2 * uniform(INSIDE) - 1).requires_grad_(), uniform(INSIDE).requires_grad_()
        self.x_start, self.t_side = 2 * uniform(EDGE) - 1, uniform(EDGE)
        self.sides = torch.ones(EDGE, 1, dtype=torch.float64)
        self.sides[::2] = -1
        sizes = [2, *[WIDTH] * DEPTH]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, 1)).double()
        for parameter in self.net.parameters():
            if parameter.dim() == 2:
                bound = math.sqrt(6 / sum(parameter.shape))
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def u(self, x, t):
        return self.net(torch.cat([x, 2 * t - 1], 1))

    def losses(self):
        u = self.u(self.x, self.t)
        u_x, u_t = torch.autograd.grad(u.sum(), (self.x, self.t), create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), self.x, create_graph=True)
        start = self.u(self.x_start, torch.zeros_like(self.x_start)) + torch.sin(math.pi * self.x_start)
        return {
            "residual": (u_t + u * u_x - NU * u_xx).square().mean(),
            "start": start.square().mean(),
            "sides": self.u(self.sides, self.t_side).square().mean(),
        }

    def error(self):
        """||u - exact|| / ||exact|| on a grid."""
        x, t = np.meshgrid(np.linspace(-1, 1, 201), np.linspace(0.01, 1, 100))
        wanted = exact(x.ravel(), t.ravel())
        with torch.no_grad():
            found = self.u(*(torch.from_numpy(a.reshape(-1, 1)) for a in (x, t)))[:, 0].numpy()
        return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


problem = Burgers(lab.seed(default=0))  # was: problem = Burgers(0)
multi = lab.method("static:residual=1:start=10:sides=10")  # new
net = problem.net
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)


def closure():
    optimizer.zero_grad()
    losses = problem.losses()
    return multi.backward(losses, shared_params=net).weighted_sum  # new
    # was: total = sum(losses.values())
    # was: total.backward()
    # was: return total


for _ in range(ADAM):
    optimizer.step(closure)
for _ in range(0, LBFGS, EVERY):
    optimizer = torch.optim.LBFGS(
        net.parameters(),
        max_iter=EVERY,
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    # One function for the line search: the first call sets the weights, all others hold them.  # new
    with multi.frozen():  # new
        optimizer.step(closure)

print(f"relative error {problem.error():.2e}")
lab.log({"val/error": problem.error()})  # new
