"""Accelerate: the sum and the largest of six numbers.

Lines that end in # new or # was: are all that the lab needs. ::

    manyloss compare accelerate_script.py --methods equal,pcgrad --seeds 5 --metric val/rmse:min \\
        --launch "accelerate launch --cpu"
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from manyloss import lab  # new

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=10)
options = options.parse_args()
accelerator = Accelerator(cpu=True)
set_seed(lab.seed(default=0))  # was: set_seed(0)


class SumAndLargest(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU())
        self.heads = nn.ModuleDict({"sum": nn.Linear(32, 1), "largest": nn.Linear(32, 1)})

    def forward(self, numbers):
        features = self.encoder(numbers)
        return features, {name: head(features) for name, head in self.heads.items()}


def losses_of(batch):
    features, found = model(batch[0])
    aims = {"sum": batch[0].sum(1, keepdim=True), "largest": batch[0].amax(1, keepdim=True)}
    return features, {name: (found[name] - aims[name]).square().mean() for name in found}


numbers = torch.randn(1200, 6)
train = DataLoader(TensorDataset(numbers[:1000]), 50)
validation = DataLoader(TensorDataset(numbers[1000:]), 200)
model = SumAndLargest()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
multi = lab.method()  # new
model, optimizer, train, validation = accelerator.prepare(model, optimizer, train, validation)
for epoch in range(1, options.epochs + 1):
    for batch in train:
        features, losses = losses_of(batch)
        optimizer.zero_grad()
        loss = multi.total(losses, features=features)  # was: loss = sum(losses.values())
        accelerator.backward(loss)
        optimizer.step()
    with torch.no_grad():
        errors = [sum(losses_of(batch)[1].values()) for batch in validation]
    rmse = accelerator.gather(torch.stack(errors)).mean().sqrt()
    lab.log({"val/rmse": rmse}, epoch=epoch)  # new
    accelerator.print(f"epoch {epoch} rmse {float(rmse):.6f}")
