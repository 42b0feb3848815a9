"""manyloss: train one PyTorch model on several losses by shaping their gradients.

One line in place of ``sum(losses).backward()``::

    multi = MultiLoss(weighting=GradNorm())
    multi.backward(losses, features=z)
"""

from manyloss.catalog import method, methods, multi_loss
from manyloss.distributed import batch_share
from manyloss.gradients import LossGradients
from manyloss.result import StepResult
from manyloss.step import MultiLoss

__version__ = "0.1.0"

__all__ = [
    "LossGradients",
    "MultiLoss",
    "StepResult",
    "__version__",
    "batch_share",
    "method",
    "methods",
    "multi_loss",
]
