"""Attacks, evaluation under attack, and the verdict on gradient masking."""

from manyloss.robustness.attacks import (
    fgsm,
    ifgsm,
    least_likely_targets,
    pgd,
    random_noise,
    random_targets,
)
from manyloss.robustness.evaluation import evaluate
from manyloss.robustness.landscape import loss_landscape
from manyloss.robustness.masking import MaskingVerdict, masking_verdict
from manyloss.robustness.report import RobustnessReport
from manyloss.robustness.saliency import saliency_maps
from manyloss.robustness.standard import Attack, standard_attacks

__all__ = [
    "Attack",
    "MaskingVerdict",
    "RobustnessReport",
    "evaluate",
    "fgsm",
    "ifgsm",
    "least_likely_targets",
    "loss_landscape",
    "masking_verdict",
    "pgd",
    "random_noise",
    "random_targets",
    "saliency_maps",
    "standard_attacks",
]
