"""One task, ten losses: GradNorm over the classes of a set in which some are rare.

    python examples/per_class.py
    manyloss compare examples/per_class.py --methods equal,gradnorm:alpha=0.5,pcgrad \\
        --metric val/rare:max --metric val/common:max

GradNorm's authors leave this for later work (Chen et al. 2018, section 6). A batch need not have every class:
the loss of an absent one is None. Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from manyloss import lab  # new

STEPS, BATCH, RARE, KEPT = 600, 64, (3, 8, 9), 8

torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
images, digits = map(torch.from_numpy, load_digits(return_X_y=True))
images = images.float() / 16
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, validation = order[:1200], order[1200:]
rare = torch.isin(digits, torch.tensor(RARE))
few = [train[digits[train] == digit][:KEPT] for digit in RARE]  # so many examples are left of each rare digit
train = torch.cat([train[~rare[train]], *few])

encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
head = nn.Linear(32, 10)
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
multi = lab.method("gradnorm:alpha=0.5")  # new
for _ in range(STEPS):
    rows = train[torch.randint(len(train), (BATCH,))]
    z, labels = encoder(images[rows]), digits[rows]
    each = F.cross_entropy(head(z), labels, reduction="none")  # [B]
    rows_of = {str(k): labels == k for k in range(10)}
    losses = {k: each[rows].mean() if rows.any() else None for k, rows in rows_of.items()}  # new
    # was: losses = {k: each[rows].mean() for k, rows in rows_of.items() if rows.any()}
    optimizer.zero_grad()
    multi.backward(losses, shared_params=encoder[2])  # was: sum(losses.values()).backward()
    optimizer.step()

with torch.no_grad():
    right = (head(encoder(images[validation])).argmax(1) == digits[validation]).float()
accuracy = {"rare": float(right[rare[validation]].mean()), "common": float(right[~rare[validation]].mean())}
print(f"{accuracy['rare']:.1%} of the rare digits are right, {accuracy['common']:.1%} of the common ones")
lab.log({f"val/{name}": value for name, value in accuracy.items()})  # new
