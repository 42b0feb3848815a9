"""Training: one problem, one arm, one seed, in memory.

trainer     what makes a step: a MultiLoss, or a defense or distiller in its place
training    the epochs: steps, evaluation, the best weights, the result
recording   the losses' gradients, measured now and then
"""

from manyloss.lab.training.batches import take_batch
from manyloss.lab.training.layout import to_channels_last
from manyloss.lab.training.randomness import random_states, seed_for, set_random_states
from manyloss.lab.training.recording import PASSED
from manyloss.lab.training.state import failure
from manyloss.lab.training.trainer import MultiLossTrainer, Trainer
from manyloss.lab.training.training import DivergedError, OtherFormatError, Progress, Training, silent

__all__ = [
    "PASSED",
    "DivergedError",
    "MultiLossTrainer",
    "OtherFormatError",
    "Progress",
    "Trainer",
    "Training",
    "failure",
    "random_states",
    "seed_for",
    "set_random_states",
    "silent",
    "take_batch",
    "to_channels_last",
]
