"""What is it, how far, and which way does it face? A SegNet on made rooms, three losses for every pixel.

    python examples/dense.py
    manyloss compare examples/dense.py --methods equal,gradnorm,initial-loss \\
        --metric val/depth:min --metric val/classes:max --metric val/normals:min

Lines that end in # new or # was: are all that is not plain PyTorch; rooms and network are the lab's.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from manyloss import lab  # new
from manyloss.lab.datasets import rooms
from manyloss.lab.models.segnet import SegNet

STEPS, TRAIN, VALIDATION, SIDE, BATCH = 200, 200, 50, 32, 8


def rendered(first, count):
    """Images and, per pixel, depth in metres, class and unit normal: tensors [count, ..., SIDE, SIDE]."""
    seen = [rooms.render(0, index, SIDE, SIDE) for index in range(first, first + count)]
    images, depth, normals, classes = (
        torch.from_numpy(np.stack([getattr(room, name) for room in seen]))
        for name in ("image", "depth", "normals", "classes")
    )
    images = images.permute(0, 3, 1, 2) / 127.5 - 1
    return images, {
        "depth": depth[:, None],
        "classes": classes.long(),
        "normals": normals.permute(0, 3, 1, 2),
    }


def losses_of(outputs, targets):
    return {
        "depth": F.mse_loss(outputs["depth"], targets["depth"]),
        "classes": F.cross_entropy(outputs["classes"], targets["classes"]),
        "normals": 1 - F.cosine_similarity(outputs["normals"], targets["normals"]).mean(),
    }


torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
images, targets = rendered(0, TRAIN)
encoder = SegNet(width=8, unpoolings=5)  # [B, 3, SIDE, SIDE] -> [B, 8, SIDE, SIDE]
channels = {"depth": 1, "classes": len(rooms.CLASSES), "normals": 3}
heads = nn.ModuleDict({task: nn.Conv2d(encoder.channels, count, 1) for task, count in channels.items()})
nn.init.constant_(heads["depth"].bias, 3.0)  # a room's usual depth: hundreds of steps to get there else
optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], lr=2e-3)
multi = lab.method("gradnorm")  # new
last = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)][-1]  # new
for _ in range(STEPS):
    rows = torch.randint(TRAIN, (BATCH,))
    z = encoder(images[rows])
    losses = losses_of(
        {task: head(z) for task, head in heads.items()}, {task: t[rows] for task, t in targets.items()}
    )
    optimizer.zero_grad()
    multi.backward(losses, features=z, shared_params=last)  # was: sum(losses.values()).backward()
    optimizer.step()

encoder.eval()
images, targets = rendered(TRAIN, VALIDATION)
with torch.no_grad():
    outputs = {task: head(encoder(images)) for task, head in heads.items()}
depth = float((outputs["depth"] - targets["depth"]).square().mean().sqrt())
right = float((outputs["classes"].argmax(1) == targets["classes"]).float().mean())
cosine = F.cosine_similarity(outputs["normals"], targets["normals"]).clamp(-1, 1)
angle = float(cosine.acos().rad2deg().mean())
print(
    f"depth is {depth:.2f} m off, normals by {angle:.0f} degrees, {right:.0%} of the pixels have their class"
)
lab.log({"val/depth": depth, "val/classes": right, "val/normals": angle})  # new
