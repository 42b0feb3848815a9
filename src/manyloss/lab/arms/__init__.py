"""Arms: what a table compares. An arm is a method with its settings, or a change of the problem itself.

On the command line an arm is written ``name`` or ``name:option=value:option=value``. The methods of the
library are arms by themselves, in `BUILT_IN`; a problem may add arms or change these in its ``arms``.
``single`` means one arm per loss, and ``NAME-static`` holds the average weights of the method NAME. Every
arm has two options more, ``optimizer.lr_factor`` and ``optimizer.weight_decay``, that change the problem's
own optimiser.

arm         what an arm is, and an arm with the options of one row
built_in    the library's methods, held average weights, and some of the lab's own
peers       methods of TorchJD
choosing    from text to arms
"""

from manyloss.lab.arms.arm import Arm, ArmContext, ChosenArm, sum_of_losses
from manyloss.lab.arms.built_in import BUILT_IN, WEIGHTS_OPTIMIZERS
from manyloss.lab.arms.choosing import (
    average_weights_of,
    choose_arm,
    choose_arms,
    is_of_an_arm,
    known_arms,
    options_for,
    set_defaults,
)

__all__ = [
    "BUILT_IN",
    "WEIGHTS_OPTIMIZERS",
    "Arm",
    "ArmContext",
    "ChosenArm",
    "average_weights_of",
    "choose_arm",
    "choose_arms",
    "is_of_an_arm",
    "known_arms",
    "options_for",
    "set_defaults",
    "sum_of_losses",
]
