"""What each weighting does to a main loss beside an auxiliary one that is small and conflicts with it.

The main loss is 2 with a gradient of length 1, the auxiliary 0.02 with one of length 0.1 at a cosine of -0.5,
in every one of 300 steps, so that what learns comes to rest. Printed: the auxiliary loss's share of both
weights, and how much of the main loss's descent is left: <merged, g_main> / <sum, g_main> after scaling the
merged gradient to the length of the sum's. 1 is the plain sum; 0, that a step no longer lowers the main loss.
"""

from __future__ import annotations

import json
import warnings

import torch

import manyloss

STEPS = 300
GRADIENTS = {"main": (1.0, 0.0), "auxiliary": (-0.05, 0.0866)}
VALUES = {"main": 2.0, "auxiliary": 0.02}
TEXTS = {"static": "static:main=1:auxiliary=1", "primary": "primary:loss=main", "metabalance": "metabalance"}


def row(name: str) -> dict[str, object]:
    rows = {loss: torch.tensor(row, dtype=torch.float64) for loss, row in GRADIENTS.items()}
    multi = manyloss.multi_loss(TEXTS.get(name, name), seed=0)
    merged = torch.zeros(2, dtype=torch.float64)
    share = 0.0
    for _ in range(STEPS):
        point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        z = point * 1.0
        losses = {loss: (z[None] @ rows[loss])[0] + value for loss, value in VALUES.items()}
        result = multi.backward(losses, shared_params=[point])
        assert point.grad is not None
        merged += point.grad / STEPS
        sizes = {loss: abs(float(weight)) for loss, weight in result.weights.items()}
        share += sizes["auxiliary"] / sum(sizes.values()) / STEPS
    plain = rows["main"] + rows["auxiliary"]
    descent = merged @ rows["main"] / merged.norm() * plain.norm() / (plain @ rows["main"])
    return {
        "method": name,
        "auxiliary_share": round(share, 3),
        "numbers": result.numbers,
        "main_descent": round(float(descent), 2),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the neglected loss, which is what is shown here
    for name, info in manyloss.methods().items():
        if info.family.endswith("weighting") and name != "ntk":
            print(json.dumps(row(name)), flush=True)
