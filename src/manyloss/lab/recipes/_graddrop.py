"""Rows that the tables of GradDrop 2020 share: what is no method for many losses, and combinations of two.

The paper gives neither the norm at which gradients are clipped (but 1.0 for point clouds) nor the weight of
the gradient penalty, nor GradNorm's alpha: 1.0, 0.001 and 1.5 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.lab.arms import Arm, ArmContext
from manyloss.penalties import GradientPenalty
from manyloss.weighting import MGDA, GradNorm

OPEN = (
    "Left open by the paper: gradients are clipped at norm 1.0, the gradient penalty weighs 0.001, "
    "GradNorm's alpha is 1.5."
)


def _penalised(context: ArmContext, weight: float) -> MultiLoss:  # noqa: ARG001
    return MultiLoss(penalties=[GradientPenalty(weight)])


def _gradnorm(context: ArmContext, alpha: float, lr: float, **options: Any) -> MultiLoss:
    return MultiLoss(GradNorm(alpha, lr), GradDrop(seed=context.seed, **options))


def _mgda(context: ArmContext, **options: Any) -> MultiLoss:
    return MultiLoss(MGDA(), GradDrop(seed=context.seed, **options))


GRADNORM: Mapping[str, Any] = {"alpha": 1.5, "lr": 0.025}
GRADDROP: Mapping[str, Any] = {"leak": 0.0, "k": 1.0, "sum_over_batch": True}

ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("clipping", "The plain sum, its gradient clipped at norm 1.", problem={"clip_gradients": 1.0}),
        Arm(
            "gradient-penalty",
            "The plain sum with a penalty on the squared norm of its gradient at the features.",
            _penalised,
            {"weight": 0.001},
            search={"weight": GradientPenalty.search["weight"]},
        ),
        Arm(
            "gradnorm-graddrop",
            "GradNorm's weights, then GradDrop.",
            _gradnorm,
            {**GRADNORM, **GRADDROP},
        ),
        Arm("mgda-graddrop", "MGDA's weights, then GradDrop.", _mgda, GRADDROP),
    )
}
