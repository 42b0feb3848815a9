"""A variational autoencoder of handwritten digits: what the picture loses, and what its code costs.

    python examples/vae.py
    manyloss compare examples/vae.py --methods equal,pcgrad,primary:loss=picture \\
        --metric val/bound:min

A warning: the bound wants the two to oppose each other in the encoder. PCGrad removes the conflict, and the
code ends empty; with "equal" it does not.
Lines that end in # new or # was: are all that is not plain PyTorch.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from manyloss import lab  # new

STEPS, CODE = 1500, 8

torch.manual_seed(lab.seed(default=0))  # was: torch.manual_seed(0)
images = torch.from_numpy(load_digits().data).float() / 16  # [1797, 64], from 0 to 1
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, validation = images[order[:1500]], images[order[1500:]]
encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * CODE))
decoder = nn.Sequential(nn.Linear(CODE, 128), nn.ReLU(), nn.Linear(128, 64))
multi = lab.method("pcgrad", losses=["picture", "code"])  # new


def losses_of(images):
    """The losses in nats an image, and the encoder's output: mean and log variance of the code."""
    features = encoder(images)
    mean, log_variance = features.chunk(2, dim=1)
    code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    picture = F.binary_cross_entropy_with_logits(decoder(code), images, reduction="none").sum(1).mean()
    code = (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2  # KL to N(0, 1)
    return {"picture": picture, "code": code}, features


optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for _ in range(STEPS):
    losses, features = losses_of(train[torch.randint(len(train), (64,))])
    optimizer.zero_grad()
    multi.backward(losses, features=features)  # was: sum(losses.values()).backward()
    optimizer.step()

with torch.no_grad():
    losses, _ = losses_of(validation)
bound = sum(losses.values())
parts = ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items())
print(f"bound {bound:.2f} nats an image ({parts})")
lab.log({"val/bound": bound})  # new
