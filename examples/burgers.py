"""Burgers' equation by a physics-informed network: Adam with a method, then L-BFGS on its frozen weights.

u_t + u u_x = nu u_xx on x in [-1, 1], t in [0, 1], u(x, 0) = -sin(pi x), u(-1, t) = u(1, t) = 0.

python examples/burgers.py                                      the plain sum and weights of 10, 3 seeds
python examples/burgers.py relobralo --every 200 --seeds 1      any method that manyloss.method takes
"""

import argparse
import math
import time
from itertools import pairwise

import numpy as np
import torch
from torch import nn

import manyloss

NU = 0.04 / math.pi
METHODS = ["equal", "static:residual=1:start=10:sides=10"]


def exact(x, t, nodes=100):
    """u(x, t) by the Cole-Hopf transform and Gauss-Hermite quadrature."""
    z, w = np.polynomial.hermite.hermgauss(nodes)
    y = x[:, None] - z * np.sqrt(4 * NU * t)[:, None]
    heat = w * np.exp(-np.cos(np.pi * y) / (2 * np.pi * NU))
    return -(np.sin(np.pi * y) * heat).sum(1) / heat.sum(1)


class Burgers:
    """Random points inside, at t = 0 and on both sides, and a network with one residual per kind of point."""

    def __init__(self, seed, inside=1000, edge=100, width=20, depth=3):
        generator = torch.Generator().manual_seed(seed)

        def uniform(rows):
            return torch.rand(rows, 1, generator=generator, dtype=torch.float64)

        self.x, self.t = (2 * uniform(inside) - 1).requires_grad_(), uniform(inside).requires_grad_()
        self.x_start, self.t_side = 2 * uniform(edge) - 1, uniform(edge)
        self.sides = torch.ones(edge, 1, dtype=torch.float64)
        self.sides[::2] = -1
        sizes = [2, *[width] * depth]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1)).double()
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


def train(multi, problem, adam, lbfgs, every=None):
    """Adam, then L-BFGS; every ``every`` iterations of it the weights are weighed anew (once, if None)."""
    net = problem.net
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(adam):
        optimizer.zero_grad()
        multi.backward(problem.losses(), shared_params=net)
        optimizer.step()

    def closure():
        net.zero_grad()
        return multi.backward(problem.losses(), shared_params=net).weighted_sum

    every = every or lbfgs
    for _ in range(0, lbfgs, every):
        with (
            multi.frozen()
        ):  # the first call weighs, all others hold its weights: a line search of one function
            torch.optim.LBFGS(
                net.parameters(),
                max_iter=every,
                history_size=50,
                tolerance_grad=0,
                tolerance_change=0,
                line_search_fn="strong_wolfe",
            ).step(closure)
    return problem.error()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "methods", nargs="*", default=["equal", "lr-annealing", "relobralo", "static:start=10"]
    )
    parser.add_argument("--adam", type=int, default=500)
    parser.add_argument("--lbfgs", type=int, default=1000)
    parser.add_argument("--every", type=int, help="iterations after which the weights are weighed anew")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for method in given.methods:
        for seed in range(given.seeds):
            start = time.perf_counter()
            multi = manyloss.multi_loss(method, seed=seed)
            error = train(multi, Burgers(seed), given.adam, given.lbfgs, given.every)
            weights = ", ".join(f"{name} {float(w):.3g}" for name, w in multi.last.weights.items())
            took = time.perf_counter() - start
            print(f"{method:16}  seed {seed}  error {error:.2e}  {took:4.0f} s  {weights}", flush=True)


if __name__ == "__main__":
    main()
