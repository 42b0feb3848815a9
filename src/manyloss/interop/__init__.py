"""Other libraries: TorchJD's methods, and thin adapters for Lightning, Accelerate and Hugging Face's Trainer.

Each module needs its library only when it is used; ``import manyloss`` needs none of them.
"""

from manyloss.interop.features import FeaturesOf
from manyloss.interop.torchjd import from_torchjd

__all__ = ["FeaturesOf", "from_torchjd"]
