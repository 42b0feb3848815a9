"""What the two toy experiments of GradNorm 2018, section 4, share.

**Functions** (eq. 3). f_i(x) = sigma_i tanh((B + eps_i) x), tanh element by element; x has 250 numbers,
f_i(x) 100. B and eps_i are constant, their elements drawn from N(0, 10) and N(0, 3.5).

**Network.** Four fully connected ReLU layers of 100 neurons, shared; one affine layer per task, 100 outputs.

**Training.** Squared loss, alpha = 0.12. W is the fourth layer. The score is the sum over tasks of the test
loss relative to its initial value, L_i(t) / L_i(0): lower is better, T is where training starts.

What the paper leaves open is decided here: N(0, 10) names a variance; x ~ N(0, I), new in every batch; the
squared loss is a mean over the 100 outputs; batches of 100; Adam at 1e-3; 20,000 steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from manyloss.lab.arms import BUILT_IN, Arm
from manyloss.lab.problem import Problem, Splits, TensorSplit

INPUTS, OUTPUTS, NEURONS, LAYERS = 250, 100, 100, 4
VARIANCE_SHARED, VARIANCE_OWN = 10.0, 3.5
HELD_OUT = 1000

DEPARTURES = (
    "L_i(0) is the loss of a network that answers 0; the initial network's differs from it by less than 2 %.",
    "The best epoch (of 200 steps) is chosen on validation, as in the whole lab; the paper shows curves.",
    "Left open by the paper: variances, x ~ N(0, I), mean over outputs, batch 100, Adam 1e-3, 20,000 steps.",
)
SCALES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"epochs": 2, "seeds": 1, "steps_per_epoch": 5},
    "small": {"epochs": 20, "seeds": 3},
    "full": {"epochs": 100, "seeds": 5},
}


class RelativeLoss(Metric):
    """Squared error over the squared target, L / L(0) for a network that starts at 0."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.error: Tensor
        self.start: Tensor
        for state in ("error", "start"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: two [B, 100]."""
        self.error += (output - target).double().square().sum()
        self.start += target.double().square().sum()

    def compute(self) -> Tensor:
        """The ratio of the sums."""
        return self.error / self.start


class Functions:
    """The T target functions. ``matrices`` [T, 100, 250] are B + eps_i."""

    def __init__(self, scales: Mapping[str, float], generator: torch.Generator) -> None:
        self.scales = scales
        shared = VARIANCE_SHARED**0.5 * torch.randn(OUTPUTS, INPUTS, generator=generator)
        own = VARIANCE_OWN**0.5 * torch.randn(len(scales), OUTPUTS, INPUTS, generator=generator)
        self.matrices = shared + own

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Targets of x [B, 250], per task [B, 100]."""
        return {
            task: scale * torch.tanh(x @ matrix.T)
            for (task, scale), matrix in zip(self.scales.items(), self.matrices, strict=True)
        }


class Stream:
    """Examples without end: every training batch is new, drawn from the trial's own generator."""

    def __init__(self, functions: Functions, length: int) -> None:
        self.functions = functions
        self.length = length

    def __len__(self) -> int:
        return self.length

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """As many new examples as there are indices: [B, 250] and per task [B, 100]."""
        x = torch.randn(len(indices), INPUTS, generator=generator)
        return x, self.functions(x)


class GradNormToy(Problem):
    """T regressions that differ in scale only; a subclass gives ``sigmas``.

    Args:
        steps_per_epoch: how many batches of 100 count as an epoch.

    """

    epochs = 20
    batch_size = 100
    derived: Mapping[str, bool] = {"sum of loss ratios": False}
    sigmas: Sequence[float] = ()
    arms: Mapping[str, Arm] = {
        "gradnorm": Arm(
            "gradnorm",
            "GradNorm with the paper's alpha = 0.12.",
            BUILT_IN["gradnorm"].method,
            {**BUILT_IN["gradnorm"].options, "alpha": 0.12},
            search=BUILT_IN["gradnorm"].search,
        )
    }

    def __init__(self, steps_per_epoch: int = 200) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.scales = {f"task {i}": float(sigma) for i, sigma in enumerate(self.sigmas)}
        self.losses = dict.fromkeys(self.scales, F.mse_loss)
        self.metrics = {f"{task}/loss ratio": RelativeLoss for task in self.scales}

    def datasets(self, seed: int) -> Splits:
        """A stream for training; 1,000 fixed examples each for validation and test."""
        generator = torch.Generator().manual_seed(seed)
        functions = Functions(self.scales, generator)
        held_out = []
        for _ in range(2):
            x = torch.randn(HELD_OUT, INPUTS, generator=generator)
            held_out.append(TensorSplit(x, functions(x)))
        return Splits(Stream(functions, self.batch_size * self.steps_per_epoch), *held_out)

    def encoder(self) -> nn.Module:
        """Four layers of 100 neurons: [B, 250] -> [B, 100]."""
        layers: list[nn.Module] = []
        for layer in range(LAYERS):
            layers += [nn.Linear(INPUTS if layer == 0 else NEURONS, NEURONS), nn.ReLU()]
        return nn.Sequential(*layers)

    def heads(self) -> Mapping[str, nn.Module]:
        """An affine layer per task: [B, 100] -> [B, 100]."""
        return {task: nn.Linear(NEURONS, OUTPUTS) for task in self.scales}

    def shared_params(self, model: nn.Module) -> list[nn.Parameter]:
        """W, the weights of the fourth layer."""
        return [model.get_parameter(f"encoder.{2 * (LAYERS - 1)}.weight")]

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The paper's score."""
        return {"sum of loss ratios": sum(values[f"{task}/loss ratio"] for task in self.scales)}
