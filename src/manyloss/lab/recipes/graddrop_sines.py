"""GradDrop 2020, section 4.1, figure 2 and appendix A.3: one weight, five sines, 200 runs, seven methods.

**Losses.** L_i(w) = sin(a_i w + b_i) + 1 for five (a, b). Every L_i has equally good minima; their sum has
minima of very different quality, and no point is good for all five.

**Training.** Plain SGD at 0.2, halved every 1,000 steps, for 10,000 steps, from a random w (here uniform in
[-10, 10]). Rows: SGD on the sum, MGDA, PCGrad, iterative PCGrad, GradNorm, Random GradDrop, GradDrop.

**Result.** The sum of the losses after the last step: mean and median over the runs, with quartiles and
extremes. The paper finds GradDrop best, and MGDA and PCGrad stuck: in one dimension they go nowhere once two
signs conflict.

Each run is a model of its own, and the methods are the library's. What GradDrop decides, it decides place by
place: the runs are its places. Every other method looks at the gradients of one run at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torchmetrics import Metric

from manyloss import MultiLoss
from manyloss.aggregation import Aggregator, GradDrop, Sum
from manyloss.gradients import LossGradients
from manyloss.lab.arms import Arm
from manyloss.lab.problem import Features, Outputs, Problem, Splits, Targets, TensorSplit
from manyloss.lab.recipes import Recipe
from manyloss.linalg import vector
from manyloss.result import StepResult
from manyloss.weighting import MGDA, GradientWeighting, GradNorm, IterativePCGrad, PCGrad

SINES = ((1.0, 0.0), (1.5, 0.2), (2.0, 0.4), (2.5, 0.6), (5.0, 0.8))  # (a, b), appendix A.3
NAMES = tuple(f"sin({a:g}w+{b:g})" for a, b in SINES)
LEARNING_RATE = 0.2
FARTHEST_START = 10.0
STEPS_PER_EPOCH = 1000  # the learning rate is halved after each


# -- the methods, for gradients [T, R] of R runs with one weight each -> [R] --------------------------------


class Runs(nn.Module):
    """A method at work in R runs; its state is saved with the model, so that a trial can resume."""

    def merge(self, gradients: Tensor, values: Tensor) -> Tensor:
        """What each run's weight gets, from dL_i/dw and L_i of every run: [T, R], [T, R] -> [R]."""
        raise NotImplementedError

    def weights(self) -> Tensor:
        """Of the losses, averaged over the runs. [T]"""
        return torch.ones(len(SINES), dtype=torch.float64)


class Places(Runs):
    """An aggregator that decides place by place: one call for all runs."""

    def __init__(self, method: Aggregator) -> None:
        super().__init__()
        self.method = method

    def merge(self, gradients: Tensor, values: Tensor) -> Tensor:
        """The aggregator at [T, P], with the runs as P places."""
        merged: Tensor = self.method(gradients, None, NAMES)
        return merged


class OneByOne(Runs):
    """A gradient weighting, asked for each run that has not come to rest.

    A run ``rests`` whose gradients were merged into 0: it meets the same gradients again. What a method draws
    at random may say otherwise the next time, so that this holds only where ``draws`` is False. (PCGrad's
    order is random, too, but in one dimension any order leaves nothing of a conflict.)
    """

    resting: Tensor
    NOTHING = 1e-12

    def __init__(self, method: GradientWeighting, runs: int, draws: bool = False) -> None:
        super().__init__()
        self.method, self.draws = method, draws
        self.register_buffer("resting", torch.zeros(runs, dtype=torch.bool))

    def merge(self, gradients: Tensor, values: Tensor) -> Tensor:
        """sum_i w_i g_i, run by run."""
        merged = torch.zeros_like(gradients[0])
        for run in (~self.resting).nonzero().flatten().tolist():
            column = gradients[:, run]  # [T]
            weights = vector(self.method(LossGradients.of(column[:, None])))
            merged[run] = weights @ column
        if not self.draws:
            self.resting |= merged.abs() <= self.NOTHING * gradients.abs().sum(0)
        return merged


class GradNorms(Runs):
    """One GradNorm per run."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self.methods = nn.ModuleList(GradNorm(alpha=1.5, lr=0.025) for _ in range(runs))
        for method in self._each():
            method.start(NAMES)

    def _each(self) -> Iterator[GradNorm]:
        for method in self.methods:
            assert isinstance(method, GradNorm)
            yield method

    def merge(self, gradients: Tensor, values: Tensor) -> Tensor:
        """sum_i w_i g_i with the weights of this step; then the weights learn."""
        now = torch.tensor([method.state.weights for method in self._each()], dtype=torch.float64).T  # [T, R]
        for method, ours, losses in zip(self._each(), gradients.abs().T, values.T, strict=True):
            method.learn(NAMES, losses, ours)
        return (now * gradients).sum(0)

    def weights(self) -> Tensor:
        """w(t), averaged over the runs."""
        return torch.tensor([method.state.weights for method in self._each()], dtype=torch.float64).mean(0)


METHODS: Mapping[str, Callable[[int], Runs]] = {
    "sgd": lambda _: Places(Sum()),
    "mgda": lambda runs: OneByOne(MGDA(), runs),
    "pcgrad": lambda runs: OneByOne(PCGrad(), runs),
    "iterative-pcgrad": lambda runs: OneByOne(IterativePCGrad(), runs, draws=True),
    "gradnorm": GradNorms,
    "random-graddrop": lambda _: Places(GradDrop(k=0.0)),
    "graddrop": lambda _: Places(GradDrop()),
}


# -- the problem ------------------------------------------------------------------------------------------


class OneWeight(nn.Module):
    """R independent copies of a model with one weight; its output is every loss of every copy."""

    a: Tensor
    b: Tensor

    def __init__(self, runs: int, method: str, farthest_start: float = FARTHEST_START) -> None:
        super().__init__()
        start = farthest_start * (2 * torch.rand(runs, dtype=torch.float64) - 1)
        self.w = nn.Parameter(start)  # [R]
        a, b = torch.tensor(SINES, dtype=torch.float64).T[:, :, None].unbind()
        self.register_buffer("a", a, persistent=False)  # [T, 1]
        self.register_buffer("b", b, persistent=False)
        self.method = METHODS[method](runs)

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
    method = "sgd"
    arms: Mapping[str, Arm] = {
        name: Arm(name, summary, problem={"method": name})
        for name, summary in {
            "sgd": "Plain SGD on the sum.",
            "mgda": "MGDA.",
            "pcgrad": "PCGrad.",
            "iterative-pcgrad": "PCGrad in place.",
            "gradnorm": "GradNorm, alpha 1.5.",
            "random-graddrop": "GradDrop, k = 0.",
            "graddrop": "GradDrop.",
        }.items()
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
        return OneWeight(self.runs, self.method, self.farthest_start)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(parameters, lr=LEARNING_RATE)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Halved after every ``halved_after`` epochs."""
        return StepLR(optimizer, self.halved_after, 0.5)

    def shared_params(self, model: nn.Module) -> None:
        """Nothing is measured by the lab: each run has gradients of its own."""
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
        """Merge the gradients of every run by ``method`` and leave them in ``w.grad``."""
        assert isinstance(model, OneWeight)
        values, gradients = model.values_and_gradients()
        weights = model.method.weights()
        model.w.grad = model.method.merge(gradients, values)
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
    gpu_scales=(),
    scales={
        "smoke": {"epochs": 2, "seeds": 1, "runs": 8, "steps_per_epoch": 20},
        "small": {"epochs": 10, "seeds": 1, "runs": 200},
        "full": {"epochs": 10, "seeds": 5, "runs": 200},
    },
)
