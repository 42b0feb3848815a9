"""Kendall's uncertainties for losses of both kinds: which are regressions, only the recipe knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from manyloss import MultiLoss
from manyloss.lab.arms import BUILT_IN, Arm, ArmContext
from manyloss.weighting import Uncertainty


def uncertainty(
    regressions: Collection[str], lr: float = 0.025, normalize: float | bool = False
) -> dict[str, Arm]:
    """The arm, by its name; losses that are not among ``regressions`` are classifications."""
    summary = "Kendall's uncertainties, each loss of its kind."
    method = partial(_method, regressions)
    options = {"lr": lr, "normalize": normalize}
    return {"uncertainty": replace(BUILT_IN["uncertainty"], summary=summary, method=method, options=options)}


def _method(
    regressions: Collection[str], context: ArmContext, lr: float, normalize: float | bool
) -> MultiLoss:
    kinds = {name: "regression" if name in regressions else "classification" for name in context.losses}
    return MultiLoss(Uncertainty(kinds, lr=lr, normalize=normalize))
