"""The same ratios on a GPU, in float32, at a batch that waits for Python and at one that fills the GPU.

``steps.py`` has the models, the methods and the pairs. Without a GPU nothing is measured, and what was stays.
"""

from __future__ import annotations

import sys

import torch

from steps import heavy_heads, linear_heads, measure

BATCHES = (32, 512)
ROUNDS = 30

if __name__ == "__main__":
    if torch.cuda.is_available():
        torch.manual_seed(0)
        name = torch.cuda.get_device_name()
        for batch in BATCHES:
            for make in (linear_heads, heavy_heads):
                measure(make(batch).to("cuda"), ROUNDS, batch=batch, gpu=name)
    else:
        print("No GPU: nothing is measured.", file=sys.stderr)
