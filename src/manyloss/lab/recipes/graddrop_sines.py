"""GradDrop 2020, section 4.1, figure 2 and appendix A.3: one weight, five sines, 200 runs, seven methods.

**Losses.** L_i(w) = sin(a_i w + b_i) + 1 for five (a, b). Every L_i has equally good minima; their sum has
minima of very different quality, and no point is good for all five.

**Training.** Plain SGD at 0.2, halved every 1,000 steps, for 10,000 steps, from a random w (here uniform in
[-10, 10]). Rows: SGD on the sum, MGDA, PCGrad, iterative PCGrad, GradNorm, Random GradDrop, GradDrop.

**Result.** The sum of the losses after the last step: mean and median over the runs, with quartiles and
extremes. The paper finds GradDrop best, and MGDA and PCGrad stuck: in one dimension they go nowhere once two
signs conflict.

All runs are made at once: each method is written for T scalars per run, [T, R]. A test runs the library's own
method on one scalar at a time and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torchmetrics import Metric

from manyloss import MultiLoss
from manyloss.lab.arms import Arm
from manyloss.lab.problem import Features, Outputs, Problem, Splits, Targets, TensorSplit
from manyloss.lab.recipes import Recipe
from manyloss.result import StepResult

SINES = ((1.0, 0.0), (1.5, 0.2), (2.0, 0.4), (2.5, 0.6), (5.0, 0.8))  # (a, b), appendix A.3
NAMES = tuple(f"sin({a:g}w+{b:g})" for a, b in SINES)
LEARNING_RATE = 0.2
FARTHEST_START = 10.0
STEPS_PER_EPOCH = 1000  # the learning rate is halved after each


# -- the methods, for gradients [T, R] of R independent scalars -> [R] --------------------------------------


def sgd(gradients: Tensor) -> Tensor:
    """The sum."""
    return gradients.sum(0)


def mgda(gradients: Tensor) -> Tensor:
    """The point of [min, max] nearest to 0: 0 as soon as two signs conflict."""
    return gradients.amin(0).clamp(min=0.0) + gradients.amax(0).clamp(max=0.0)


def pcgrad(gradients: Tensor) -> Tensor:
    """In one dimension any conflict leaves nothing of either side: the sum where all signs agree, else 0."""
    conflict = (gradients > 0).any(0) & (gradients < 0).any(0)
    return torch.where(conflict, torch.zeros_like(gradients[0]), gradients.sum(0))


def iterative_pcgrad(gradients: Tensor) -> Tensor:
    """One loss after the other, in random order, is zeroed if a loss of the other sign is still there."""
    left = gradients.clone()  # [T, R]
    order = torch.rand(gradients.shape).argsort(0)
    for chosen in order:
        at = chosen[None]  # [1, R]
        own = left.gather(0, at)
        conflict = (left * own < 0).any(0, keepdim=True)
        left.scatter_(0, at, torch.where(conflict, torch.zeros_like(own), own))
    return left.sum(0)


def graddrop(gradients: Tensor, k: float = 1.0) -> Tensor:
    """Keep the positive gradients with probability f(P), else the negative ones (algorithm 1)."""
    total = gradients.abs().sum(0)
    purity = torch.where(total > 0, 0.5 * (1 + gradients.sum(0) / total), torch.full_like(total, 0.5))
    positive = torch.rand(total.shape, dtype=total.dtype) < (k * (purity - 0.5) + 0.5).clamp(0.0, 1.0)
    return torch.where(positive, gradients.clamp(min=0.0), gradients.clamp(max=0.0)).sum(0)


def random_graddrop(gradients: Tensor) -> Tensor:
    """GradDrop with a fair coin for the sign; a pure sign is dropped half of the time, as f = 0.5 says."""
    return graddrop(gradients, k=0.0)


RULES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sgd": sgd,
    "mgda": mgda,
    "pcgrad": pcgrad,
    "iterative-pcgrad": iterative_pcgrad,
    "random-graddrop": random_graddrop,
    "graddrop": graddrop,
}


class GradNormWeights(nn.Module):
    """GradNorm for R runs at once: weights [T, R] and their Adam, in buffers so that a trial can resume."""

    FLOOR = 1e-4
    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

    weights: Tensor
    initial: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, runs: int, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        self.alpha, self.lr = alpha, lr
        shape = (len(SINES), runs)
        self.register_buffer("weights", torch.ones(shape, dtype=torch.float64))
        for name in ("initial", "mean", "square"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    def merge(self, gradients: Tensor, values: Tensor) -> Tensor:
        """sum_i w_i g_i with the weights of this step; then the weights learn."""
        merged = (self.weights * gradients).sum(0)
        if self.steps == 0:
            self.initial.copy_(values)
        norms = gradients.abs()
        scaled = self.weights * norms
        ratios = values / self.initial
        target = scaled.mean(0) * (ratios / ratios.mean(0)) ** self.alpha
        self._adam(torch.sign(scaled - target) * norms)
        self.weights.clamp_(min=self.FLOOR)
        self.weights.mul_(len(SINES) / self.weights.sum(0))
        return merged

    def _adam(self, slope: Tensor) -> None:
        self.steps += 1
        self.mean.lerp_(slope, 1 - self.BETA1)
        self.square.mul_(self.BETA2).addcmul_(slope, slope, value=1 - self.BETA2)
        steps = float(self.steps)
        size = (self.square / (1 - self.BETA2**steps)).sqrt_().add_(self.EPS)
        self.weights.addcdiv_(self.mean, size, value=-self.lr / (1 - self.BETA1**steps))


# -- the problem ------------------------------------------------------------------------------------------


class OneWeight(nn.Module):
    """R independent copies of a model with one weight; its output is every loss of every copy."""

    a: Tensor
    b: Tensor

    def __init__(self, runs: int, farthest_start: float = FARTHEST_START) -> None:
        super().__init__()
        start = farthest_start * (2 * torch.rand(runs, dtype=torch.float64) - 1)
        self.w = nn.Parameter(start)  # [R]
        a, b = torch.tensor(SINES, dtype=torch.float64).T[:, :, None].unbind()
        self.register_buffer("a", a, persistent=False)  # [T, 1]
        self.register_buffer("b", b, persistent=False)
        self.gradnorm = GradNormWeights(runs)

    def forward(self, inputs: Any) -> tuple[Features, dict[str, Tensor]]:
        """The weights w [R], and per sine its values [R]."""
        return self.w, dict(zip(NAMES, torch.sin(self.a * self.w + self.b) + 1, strict=True))

    def values_and_gradients(self) -> tuple[Tensor, Tensor]:
        """L_i and dL_i/dw, both [T, R]; the derivative is known, so no autograd is needed."""
        phase = self.a * self.w.detach() + self.b
        return torch.sin(phase) + 1, self.a * torch.cos(phase)


class OverRuns(Metric):
    """A statistic of the sum of losses over the runs; only the last batch counts, since there is but one."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self, statistic: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.statistic = statistic
        self.totals: Tensor
        self.add_state("totals", torch.zeros(0, dtype=torch.float64), dist_reduce_fx=None)

    def update(self, totals: Tensor) -> None:
        """Sums of losses [R]."""
        self.totals = totals

    def compute(self) -> Tensor:
        """The statistic."""
        return self.statistic(self.totals)


class Sines(Problem):
    """One weight against five sines, many times over.

    Args:
        runs: how many random starts.
        steps_per_epoch: 1,000 in the paper.
        farthest_start: w starts uniformly within this distance of 0.
        halved_after: epochs between two halvings of the learning rate.

    """

    name = "graddrop-sines"
    epochs = 10
    batch_size = 1
    keep_last = True
    baseline = "sgd"
    losses = dict.fromkeys(NAMES, torch.mean)  # compute_losses knows better; the names count
    metrics: Mapping[str, Callable[[], Metric]] = {
        "final loss/mean": lambda: OverRuns(torch.mean),
        "final loss/median": lambda: OverRuns(lambda totals: totals.quantile(0.5)),
    }
    derived: Mapping[str, bool] = {
        "final loss/lowest": False,
        "final loss/lower quartile": False,
        "final loss/upper quartile": False,
        "final loss/highest": False,
    }
    rule = "sgd"
    arms: Mapping[str, Arm] = {
        "sgd": Arm("sgd", "Plain SGD on the sum.", problem={"rule": "sgd"}),
        "mgda": Arm("mgda", "MGDA.", problem={"rule": "mgda"}),
        "pcgrad": Arm("pcgrad", "PCGrad.", problem={"rule": "pcgrad"}),
        "iterative-pcgrad": Arm("iterative-pcgrad", "PCGrad in place.", problem={"rule": "iterative-pcgrad"}),
        "gradnorm": Arm("gradnorm", "GradNorm, alpha 1.5.", problem={"rule": "gradnorm"}),
        "random-graddrop": Arm("random-graddrop", "GradDrop, k = 0.", problem={"rule": "random-graddrop"}),
        "graddrop": Arm("graddrop", "GradDrop.", problem={"rule": "graddrop"}),
    }

    def __init__(
        self,
        runs: int = 200,
        steps_per_epoch: int = STEPS_PER_EPOCH,
        farthest_start: float = FARTHEST_START,
        halved_after: int = 1,
    ) -> None:
        self.runs = runs
        self.farthest_start, self.halved_after = farthest_start, halved_after
        self.steps_per_epoch = steps_per_epoch
        self.last_totals = torch.zeros(0)

    def datasets(self, seed: int) -> Splits:
        """There is no data: as many empty examples as there are steps in an epoch."""
        nothing = TensorSplit(torch.zeros(1, 1), {})
        return Splits(TensorSplit(torch.zeros(self.steps_per_epoch, 1), {}), nothing, nothing)

    def model(self) -> nn.Module:
        """All runs at once."""
        return OneWeight(self.runs, self.farthest_start)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(parameters, lr=LEARNING_RATE)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Halved after every ``halved_after`` epochs."""
        return StepLR(optimizer, self.halved_after, 0.5)

    def shared_params(self, model: nn.Module) -> None:
        """Nothing is measured by the lab: the methods are this file's."""
        return

    def compute_losses(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor | None]:
        """The mean over the runs, for the record."""
        return {name: outputs[name].mean() for name in NAMES}

    def update_metrics(self, metrics: Mapping[str, Metric], outputs: Outputs, targets: Targets) -> None:
        """The sum of the five, per run."""
        self.last_totals = torch.stack([outputs[name] for name in NAMES]).sum(0).detach()
        for metric in metrics.values():
            metric.update(self.last_totals)

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The rest of the box plot."""
        places = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=self.last_totals.dtype)
        return dict(zip(self.derived, self.last_totals.quantile(places).tolist(), strict=True))

    def training_step(
        self,
        model: nn.Module,
        multi: MultiLoss,
        inputs: Any,
        targets: Targets,
        shared_params: Sequence[Tensor] | None,
    ) -> StepResult:
        """Merge the gradients of every run by ``rule`` and leave them in ``w.grad``."""
        assert isinstance(model, OneWeight)
        values, gradients = model.values_and_gradients()
        weights = torch.ones(len(SINES), dtype=torch.float64)
        if self.rule == "gradnorm":
            weights = model.gradnorm.weights.mean(1)
            model.w.grad = model.gradnorm.merge(gradients, values)
        else:
            model.w.grad = RULES[self.rule](gradients)
        return StepResult(
            losses=dict(zip(NAMES, values.mean(1), strict=True)),
            weights=dict(zip(NAMES, weights, strict=True)),
        )

    def measured_losses(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Targets,
    ) -> None:
        """No gradients are recorded: one number per run and loss, each run its own."""
        return


recipe = Recipe(
    name="graddrop-sines",
    summary="One weight, five sines, 200 random starts: which method ends in the deepest minimum?",
    problem=Sines,
    arms=("sgd", "mgda", "pcgrad", "iterative-pcgrad", "gradnorm", "random-graddrop", "graddrop"),
    seeds=1,
    paper="Just Pick a Sign: GradDrop (2020), section 4.1, figure 2, appendix A.3",
    departures=(
        "w starts uniformly in [-10, 10] and GradNorm's alpha is 1.5: the paper gives neither.",
        "Learning rate and schedule are the paper's for every method; MGDA's merged gradient is a convex "
        "combination, the others' are sums.",
        "All runs of a method are one trial; full scale repeats the paper's 200 runs with five seeds, which "
        "gives intervals.",
    ),
    scales={
        "smoke": {"epochs": 2, "seeds": 1, "runs": 8, "steps_per_epoch": 20},
        "small": {"epochs": 10, "seeds": 1, "runs": 200},
        "full": {"epochs": 10, "seeds": 5, "runs": 200},
    },
)
