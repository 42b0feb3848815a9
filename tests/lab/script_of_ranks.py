"""A training script of several ranks that keeps checkpoints, and ends as it is asked to."""

import argparse
import os
import signal
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from manyloss import lab

arguments = argparse.ArgumentParser()
arguments.add_argument("--end", choices=["raise", "nan", "kill"])
arguments.add_argument("--wait", action="store_true")
arguments = arguments.parse_args()

dist.init_process_group("gloo")
multi = lab.method()
torch.manual_seed(lab.seed(default=0))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 8)
        self.heads = nn.ModuleDict({"sum": nn.Linear(8, 1), "first": nn.Linear(8, 1)})

    def forward(self, x):
        z = self.encoder(x)
        return z, {name: head(z) for name, head in self.heads.items()}


model = DistributedDataParallel(TwoHeads())
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
x = torch.randn(64, 4)[dist.get_rank() :: 2]
kept, done = lab.folder() / "last.pt", 0
if kept.exists():
    saved = torch.load(kept)
    model.load_state_dict(saved["model"])
    done = saved["epoch"]
for epoch in range(done + 1, 5):
    features, found = model(x)
    aims = {"sum": x.sum(1, keepdim=True), "first": x[:, :1]}
    losses = {name: (found[name] - aims[name]).square().mean() for name in found}
    if arguments.end == "nan":
        losses["first"] = losses["first"] * float("nan")
    optimizer.zero_grad()
    multi.backward(losses, features=features)
    optimizer.step()
    lab.log({"val/error": sum(losses.values())}, epoch=epoch)
    if dist.get_rank() == 0:
        torch.save({"model": model.state_dict(), "epoch": epoch}, kept)
        (kept.parent / f"epoch-{epoch}").touch()
    dist.barrier()
    if arguments.wait and epoch == 2 and not done:
        time.sleep(1000)
    if arguments.end == "raise":
        raise RuntimeError("asked to fail")
    if arguments.end == "kill" and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
dist.destroy_process_group()
