"""The lab: find out, on your own problem, whether a method is worth its cost.

    Problem -> Trial -> Study -> Claim -> Report

You write a `Problem`; ``manyloss compare my_problem.py`` does the rest.
"""

from manyloss.lab.arms import Arm, ArmContext
from manyloss.lab.checks import LabError
from manyloss.lab.problem import BatchedSplit, EncoderWithHeads, Problem, Splits, TensorSplit

__all__ = [
    "Arm",
    "ArmContext",
    "BatchedSplit",
    "EncoderWithHeads",
    "LabError",
    "Problem",
    "Splits",
    "TensorSplit",
]
