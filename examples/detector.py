"""A small detector: class, box and distribution losses over a feature pyramid, as in YOLO's later versions.

    python examples/detector.py
    manyloss compare examples/detector.py --methods equal,pcgrad,gradnorm \\
        --metric val/iou:max --metric val/class:max

Boxes: four distances, each the mean of a distribution over bins (Li et al. 2020, "Generalized focal loss").
Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import nn

from manyloss import lab  # new
from manyloss.interop import FeaturesOf  # new

STEPS, TRAIN, VALIDATION, BATCH, SIDE = 300, 2000, 100, 16, 48
CLASSES, BINS, WIDTH, STRIDES = ("square", "disc", "frame"), 8, 24, (4, 8, 16)
CELLS = [(SIDE // stride) ** 2 for stride in STRIDES]
#: Of all cells, finest level first [N]: the middle [N, 2] and the stride [N, 1], in pixels.
CENTRES = torch.cat([torch.cartesian_prod(*2 * [torch.arange(s / 2, SIDE, s)]).flip(1) for s in STRIDES])
SCALES = torch.cat([torch.full((n, 1), float(s)) for n, s in zip(CELLS, STRIDES, strict=True)])


def drawn(count, generator):
    """Pictures of two shapes each; per cell the class [count, N] (-1: none) and the box [count, N, 4]."""
    images = 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    classes, boxes = torch.full((count, len(CENTRES)), -1), torch.zeros(count, len(CENTRES), 4)
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    for number in range(count):
        for _ in range(2):
            kind = int(torch.randint(3, (), generator=generator))
            half = 4 + 12 * torch.rand(2, generator=generator)
            middle = half + (SIDE - 2 * half) * torch.rand(2, generator=generator)
            across, down = (x - middle[0]).abs() / half[0], (y - middle[1]).abs() / half[1]
            away = torch.hypot(across, down) if CLASSES[kind] == "disc" else torch.maximum(across, down)
            inside = (away < 1) & (away > 0.6) if CLASSES[kind] == "frame" else away < 1
            images[number, :, inside] += 0.5 + torch.rand(3, 1, generator=generator)
            level = int(half.max() > 8) + int(half.max() > 13)  # larger shapes belong to coarser levels
            column, row = (middle / STRIDES[level]).long().tolist()
            cell = sum(CELLS[:level]) + row * (SIDE // STRIDES[level]) + column
            classes[number, cell], boxes[number, cell] = kind, torch.cat([middle - half, middle + half])
    return images, classes, boxes


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
            for channels in (3, WIDTH, WIDTH, WIDTH)
        )
        self.sides = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in STRIDES)
        self.levels = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1) for _ in STRIDES)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.ReLU(), nn.Conv2d(WIDTH, channels, 1))
            for channels in (len(CLASSES), 4 * BINS)
        )
        nn.init.constant_(self.heads[0][-1].bias, -4.0)  # most cells have no shape

    def forward(self, images):  # class logits [B, N, 3] and logits of the distances' bins [B, N, 4, BINS]
        x, maps = self.stages[0](images), []
        for stage, side in zip(self.stages[1:], self.sides, strict=True):
            x = stage(x)
            maps.append(side(x))
        for fine in (1, 0):
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], scale_factor=2.0)
        pyramid = [level(found) for level, found in zip(self.levels, maps, strict=True)]
        classes, distances = (torch.cat([head(z).flatten(2) for z in pyramid], 2).mT for head in self.heads)
        return classes, distances.unflatten(2, (4, BINS))


def overlap(boxes, others):
    """Intersection over union of [K, 4] and [K, 4], and the generalised one (Rezatofighi et al. 2019)."""
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others)]
    low, high = torch.minimum(boxes, others), torch.maximum(boxes, others)
    both = (low[:, 2:] - high[:, :2]).clamp(min=0).prod(1)
    either, hull = sum(areas) - both, (high[:, 2:] - low[:, :2]).prod(1)
    return both / either, both / either - (hull - either) / hull


def losses_of(outputs, classes, boxes):
    """The three losses, and what is right: mean IoU and share of classes, at the cells that have a shape."""
    logits, bins = outputs
    picture, cell = torch.where(classes >= 0)
    wanted = F.one_hot(classes.clamp(min=0), len(CLASSES)) * (classes >= 0)[:, :, None]
    centres, scales, box, bins = CENTRES[cell], SCALES[cell], boxes[picture, cell], bins[picture, cell]
    distances = torch.cat([centres - box[:, :2], box[:, 2:] - centres], 1) / scales  # [K, 4]
    lower = distances.floor().clamp(0, BINS - 2).long()
    above = (distances - lower).clamp(0, 1)
    logs = bins.log_softmax(2)
    below, over = (logs.gather(2, (lower + k)[..., None])[..., 0] for k in (0, 1))
    mean = (bins.softmax(2) * torch.arange(BINS)).sum(2) * scales
    iou, generalised = overlap(torch.cat([centres - mean[:, :2], centres + mean[:, 2:]], 1), box)
    losses = {
        "class": F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="sum") / len(cell),
        "box": 2 * (1 - generalised).mean(),
        "distribution": -0.25 * ((1 - above) * below + above * over).mean(),
    }
    right = (logits[picture, cell].argmax(1) == classes[picture, cell]).float().mean()
    return losses, float(iou.detach().mean()), float(right)


torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
images, classes, boxes = drawn(TRAIN, torch.Generator().manual_seed(0))
model = Detector()
pyramid = FeaturesOf(*model.levels)  # new
multi = lab.method("pcgrad")  # new
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
for _ in range(STEPS):
    rows = torch.randint(TRAIN, (BATCH,))
    losses, _, _ = losses_of(model(images[rows]), classes[rows], boxes[rows])
    optimizer.zero_grad()
    multi.backward(losses, features=pyramid.take())  # was: sum(losses.values()).backward()
    optimizer.step()

model.eval()
images, classes, boxes = drawn(VALIDATION, torch.Generator().manual_seed(1))
with torch.no_grad():
    _, iou, right = losses_of(model(images), classes, boxes)
print(f"boxes overlap with the true ones by {iou:.2f} (IoU), {right:.0%} of the classes are right")
lab.log({"val/iou": iou, "val/class": right})  # new
