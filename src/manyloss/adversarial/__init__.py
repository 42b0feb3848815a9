"""Networks that read gradients, and models trained against them (GREAT, Sinha et al. 2018)."""

from manyloss.adversarial._base import Distiller, ModelMethod
from manyloss.adversarial._watch import batchnorm_cosine
from manyloss.adversarial.alignment import GradientAlignment
from manyloss.adversarial.defense import GradientDefense
from manyloss.adversarial.distillation import GradientDistillation
from manyloss.adversarial.plain import PlainTraining
from manyloss.adversarial.result import DefenseResult, DistillationResult, ModelResult, Notice
from manyloss.adversarial.reversal import GradientReversal
from manyloss.adversarial.sobolev import SobolevTraining
from manyloss.adversarial.soft_targets import SoftTargets

__all__ = [
    "DefenseResult",
    "DistillationResult",
    "Distiller",
    "GradientAlignment",
    "GradientDefense",
    "GradientDistillation",
    "GradientReversal",
    "ModelMethod",
    "ModelResult",
    "Notice",
    "PlainTraining",
    "SobolevTraining",
    "SoftTargets",
    "batchnorm_cosine",
]
