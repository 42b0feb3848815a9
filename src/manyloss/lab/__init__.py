"""The lab: find out, on your own problem or script, whether a method is worth its cost.

    Problem or Script -> Training -> Trial -> Study -> results -> Report, Claim

You write a `Problem`, or add four lines to a training script you have; ``manyloss compare`` or `compare` does
the rest. A script uses `method`, `seed`, `folder`, `log` and `metric`, and `learning_rate` and
`weight_decay` where these are searched, too.
"""

from manyloss.lab.arms import Arm, ArmContext
from manyloss.lab.checks import LabError
from manyloss.lab.commands import board, choose_seeds, compare, diagnose, pack, report, reproduce
from manyloss.lab.pictures import Pictures
from manyloss.lab.problem import BatchedSplit, EncoderWithHeads, FinalEvaluation, Problem, Splits, TensorSplit
from manyloss.lab.scripts import folder, learning_rate, log, method, metric, seed, weight_decay

__all__ = [
    "Arm",
    "ArmContext",
    "BatchedSplit",
    "EncoderWithHeads",
    "FinalEvaluation",
    "LabError",
    "Pictures",
    "Problem",
    "Splits",
    "TensorSplit",
    "board",
    "choose_seeds",
    "compare",
    "diagnose",
    "folder",
    "learning_rate",
    "log",
    "method",
    "metric",
    "pack",
    "report",
    "reproduce",
    "seed",
    "weight_decay",
]
