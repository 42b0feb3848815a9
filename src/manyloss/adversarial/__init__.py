"""Networks that read gradients, and models trained against them (GREAT, Sinha et al. 2018)."""

from manyloss.adversarial._distiller import DistillationResult
from manyloss.adversarial._watch import batchnorm_cosine
from manyloss.adversarial.alignment import GradientAlignment
from manyloss.adversarial.defense import DefenseResult, GradientDefense
from manyloss.adversarial.distillation import GradientDistillation
from manyloss.adversarial.plain import PlainTraining
from manyloss.adversarial.reversal import GradientReversal
from manyloss.adversarial.sobolev import SobolevTraining
from manyloss.adversarial.soft_targets import SoftTargets

__all__ = [
    "DefenseResult",
    "DistillationResult",
    "GradientAlignment",
    "GradientDefense",
    "GradientDistillation",
    "GradientReversal",
    "PlainTraining",
    "SobolevTraining",
    "SoftTargets",
    "batchnorm_cosine",
]
