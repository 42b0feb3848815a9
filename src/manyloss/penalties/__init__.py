"""Penalties: differentiable scalars of per-loss gradients that join the objective."""

from manyloss.penalties._base import Penalty
from manyloss.penalties.cosreg import CosReg
from manyloss.penalties.gradient_penalty import GradientPenalty

__all__ = ["CosReg", "GradientPenalty", "Penalty"]
