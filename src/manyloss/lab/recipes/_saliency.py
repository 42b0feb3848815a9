"""GREAT 2018, figure 4 (left), in numbers: what a network's input gradients look like.

The paper shows three saliency maps per training and says: baseline and adversarial training are active
outside the object, GREACE is sparse, GREAT uninformative, GRE(AT+CE) sparse, less informative and inside the
object. Here these words are numbers, over all test images: **saliency Gini** (0 all pixels alike, 1 a single
pixel: how sparse), **saliency in the middle** (the share of the inner 16x16 pixels, a quarter of the area,
where objects mostly are) and **class told by gradient** (how often ridge regression on the gradient of the
true class's logit names the class of images it was not fitted on: how informative).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyloss.robustness import saliency_maps

GINI, MIDDLE, TOLD = "saliency Gini", "saliency in the middle", "class told by gradient"
#: Is higher better? A defense's gradients should tell an attacker little.
DERIVED: Mapping[str, bool] = {GINI: True, MIDDLE: True, TOLD: False}
#: Of so many test images the maps are kept.
SHOWN = 3
RIDGE = 1.0


def gini(maps: Tensor) -> Tensor:
    """Gini coefficient of each map [B, H, W] -> [B]; 0 for a map of zeros."""
    values = maps.flatten(1).double().sort(1).values
    count = values.shape[1]
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    total = values.sum(1)
    coefficient = (2 * (values * ranks).sum(1) / (count * total.clamp(min=1e-300))) - (count + 1) / count
    return torch.where(total > 0, coefficient, 0.0)


def share_in_the_middle(maps: Tensor) -> Tensor:
    """How much of each map [B, H, W] lies in the inner half of rows and columns, [B]; a quarter if even."""
    _, height, width = maps.shape
    inner = maps[:, height // 4 : height - height // 4, width // 4 : width - width // 4].double().sum((1, 2))
    total = maps.double().sum((1, 2))
    return torch.where(total > 0, inner / total.clamp(min=1e-300), 0.25)


def told_by_gradient(gradients: Tensor, y: Tensor, classes: int) -> float:
    """Accuracy of ridge regression from unit gradients [N, ...] to the class, on the half not fitted on."""
    rows = F.normalize(gradients.flatten(1).double(), dim=1)
    half = len(rows) // 2
    fitted, judged = rows[:half], rows[half:]
    wanted = F.one_hot(y[:half], classes).double() - 1 / classes
    kernel = fitted @ fitted.T + RIDGE * torch.eye(half, dtype=torch.float64)
    scores = judged @ fitted.T @ torch.linalg.solve(kernel, wanted)
    return float((scores.argmax(1) == y[half:]).double().mean())


def logit_gradients(network: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """The gradient of the true class's logit at the input, [B, C, H, W], in eval mode."""
    found = []
    for part, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
        inputs = part.requires_grad_()
        (gradient,) = torch.autograd.grad(network(inputs).gather(1, labels[:, None]).sum(), inputs)
        found.append(gradient)
    return torch.cat(found)


def looked_at(
    network: nn.Module, x: Tensor, y: Tensor, batch_size: int, classes: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The three numbers over all images [N, C, H, W]; the first images with their maps, for result.json."""
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    maps = torch.cat([saliency_maps(network, part, labels) for part, labels in parts]).cpu()
    gradients = logit_gradients(network, x, y, batch_size).cpu()
    numbers = {
        GINI: float(gini(maps).mean()),
        MIDDLE: float(share_in_the_middle(maps).mean()),
        TOLD: told_by_gradient(gradients, y.cpu(), classes),
    }
    shown = [
        {
            "image": (255 * image).round().int().tolist(),
            "map": (255 * each / each.max().clamp(min=1e-30)).round().int().tolist(),
            "class": int(label),
        }
        for image, each, label in zip(x[:SHOWN].cpu(), maps, y.cpu(), strict=False)
    ]
    return numbers, shown
