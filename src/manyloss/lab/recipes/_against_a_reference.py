"""Gains against another network of the run, and distances from its weights: figures 4 and 7 of GradNorm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from manyloss.lab.arms import ArmContext
from manyloss.lab.problem import FinalEvaluation, Problem, Splits


class AgainstAReference(Problem):
    """The rows that need a reference are compared with it by their test losses, as figures 4 and 7 are.

    **gain** is the mean over the losses of 1 - L_i / L_i(reference): positive where the row is better.
    **distance** is the L2 distance of the row's weights from the reference's time-averaged ones, E_t[w].
    """

    GAIN, DISTANCE = "gain", "distance from E_t[w]"
    derived: Mapping[str, bool] = {GAIN: True, DISTANCE: False}

    def final_evaluation(
        self, model: nn.Module, splits: Splits, context: ArmContext
    ) -> FinalEvaluation | None:
        """Nothing for a row without a reference."""
        if not context.prerequisites:
            return None
        (reference,) = context.prerequisites.values()
        losses = self._losses_of(model, splits.test, context.device)
        gains = [1 - losses[name] / reference["test_losses"][name] for name in losses]
        metrics = {self.GAIN: sum(gains) / len(gains)}
        weights = self.fixed_weights(context)
        if weights is not None:
            average = reference["mean_weights"]
            metrics[self.DISTANCE] = math.dist(weights.values(), [average[name] for name in weights])
        return FinalEvaluation(metrics=metrics)

    def fixed_weights(self, context: ArmContext) -> Mapping[str, float] | None:
        """The weights of a row that never changes them; they sum to T, as GradNorm's do."""
        return None

    @torch.no_grad()
    def _losses_of(self, model: nn.Module, split: Any, device: torch.device | str) -> dict[str, float]:
        """The mean losses of a split."""
        totals = dict.fromkeys(self.loss_names, 0.0)
        for indices in torch.split(torch.arange(len(split)), self.evaluation_batch_size):
            images, targets = split.batch(indices, None)
            _, outputs = model(images.to(device))
            there = {name: target.to(device) for name, target in targets.items()}
            for name, loss in self.compute_losses(outputs, there).items():
                assert loss is not None
                totals[name] += float(loss) * len(indices)
        return {name: total / len(split) for name, total in totals.items()}
