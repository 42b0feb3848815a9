"""Weightings: one number per loss.

A *loss weighting* scales the losses, so the heads too; a *gradient weighting* scales only what reaches the
shared part.
"""

from manyloss.weighting._base import GradientWeighting, LossWeighting, Weighting
from manyloss.weighting.aligned_mtl import AlignedMTL
from manyloss.weighting.annealing import LearningRateAnnealing
from manyloss.weighting.cagrad import CAGrad
from manyloss.weighting.dwa import DWA
from manyloss.weighting.equal import Equal
from manyloss.weighting.fairgrad import FairGrad
from manyloss.weighting.famo import FAMO
from manyloss.weighting.geometric import GeometricLoss
from manyloss.weighting.gradnorm import GradNorm
from manyloss.weighting.gradvac import GradVac
from manyloss.weighting.imtl_g import IMTLG
from manyloss.weighting.imtl_l import IMTLL
from manyloss.weighting.initial_loss import InitialLoss
from manyloss.weighting.log_loss import LogLoss
from manyloss.weighting.metabalance import MetaBalance
from manyloss.weighting.mgda import MGDA
from manyloss.weighting.nash_mtl import NashMTL
from manyloss.weighting.ntk import NTKWeights
from manyloss.weighting.pcgrad import IterativePCGrad, PCGrad
from manyloss.weighting.primary import Primary
from manyloss.weighting.random import Random
from manyloss.weighting.relobralo import ReLoBRaLo
from manyloss.weighting.softadapt import SoftAdapt
from manyloss.weighting.static import Static
from manyloss.weighting.stch import STCH
from manyloss.weighting.uncertainty import Uncertainty
from manyloss.weighting.upgrad import UPGrad

__all__ = [
    "AlignedMTL",
    "CAGrad",
    "DWA",
    "Equal",
    "FairGrad",
    "FAMO",
    "GeometricLoss",
    "GradientWeighting",
    "GradNorm",
    "GradVac",
    "IMTLG",
    "IMTLL",
    "InitialLoss",
    "IterativePCGrad",
    "LearningRateAnnealing",
    "LogLoss",
    "LossWeighting",
    "MetaBalance",
    "MGDA",
    "NashMTL",
    "NTKWeights",
    "PCGrad",
    "Primary",
    "Random",
    "ReLoBRaLo",
    "SoftAdapt",
    "Static",
    "STCH",
    "Uncertainty",
    "UPGrad",
    "Weighting",
]
