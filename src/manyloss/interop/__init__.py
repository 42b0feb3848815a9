"""Other libraries: features from inside a model, TorchJD's methods, Hugging Face's Trainer.

Trainers that call ``backward`` themselves (Lightning, Accelerate, your own) need no adapter: give them
``multi.total(losses, ...)`` as the loss. Each module needs its library only when it is used;
``import manyloss`` needs none of them.
"""

from manyloss.interop.features import FeaturesOf
from manyloss.interop.torchjd import from_torchjd

__all__ = ["FeaturesOf", "from_torchjd"]
