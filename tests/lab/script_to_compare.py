"""A training script as users write them, with the lab's lines in it."""

import argparse

import torch
from torch import nn

from manyloss import lab

arguments = argparse.ArgumentParser()
arguments.add_argument("--epochs", type=int, default=3)
arguments.add_argument("--fail-with", default="")
arguments.add_argument("--keep", action="store_true")
arguments.add_argument("--stop-once", action="store_true")
arguments = arguments.parse_args()

multi = lab.method()
torch.manual_seed(lab.seed(default=0))
lab.metric("val/rmse", lower_is_better=True)
if arguments.fail_with and type(multi.weighting).__name__.lower() == arguments.fail_with:
    raise RuntimeError("asked to fail")

x = torch.randn(192, 4)
targets = {"sum": x.sum(1, keepdim=True), "dif:2": x[:, :1] - x[:, 1:2]}
encoder = nn.Linear(4, 8)
heads = nn.ModuleDict({"sum": nn.Linear(8, 1), "dif:2": nn.Linear(8, 1)})
model = nn.ModuleList([encoder, heads])
optimizer = torch.optim.Adam(model.parameters(), lr=lab.learning_rate(1e-2))
done = 0
if arguments.keep:
    kept = lab.folder() / "last.pt"
    if kept.exists():
        saved = torch.load(kept)
        model.load_state_dict(saved["model"])
        done = saved["epoch"]


def losses_of(rows):
    features = encoder(x[rows]).relu()
    losses = {n: (head(features) - targets[n][rows]).square().mean() for n, head in heads.items()}
    return features, losses


def rmse(rows):
    with torch.no_grad():
        return sum(losses_of(rows)[1].values()).sqrt()


for epoch in range(done + 1, arguments.epochs + 1):
    for start in range(0, 128, 32):
        features, losses = losses_of(slice(start, start + 32))
        optimizer.zero_grad()
        result = multi.backward(losses, features=features)
        optimizer.step()
    lab.log({"val/rmse": rmse(slice(128, 160))}, epoch=epoch)
    lab.log({"rmse": rmse(slice(160, 192))}, epoch=epoch, split="test")
    if arguments.keep:
        torch.save({"model": model.state_dict(), "epoch": epoch}, kept)
    if arguments.stop_once and epoch == 1 and not done:
        raise KeyError("stopped once")
if result.weights is not None:
    print("weights", {name: round(float(value), 3) for name, value in result.weights.items()})
