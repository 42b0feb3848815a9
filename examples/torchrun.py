"""Two losses on several processes: torchrun --nproc-per-node 2 examples/torchrun.py"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from manyloss import MultiLoss, batch_share
from manyloss.weighting import MGDA


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.heads = nn.ModuleDict({"mean": nn.Linear(32, 1), "sign": nn.Linear(32, 2)})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = self.encoder(x)
        return features, {name: head(features) for name, head in self.heads.items()}


def main() -> None:
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    x = torch.randn(1003, 8)
    data = TensorDataset(x, 3 * x.mean(1, keepdim=True), (x[:, 0] > 0).long())
    sampler = DistributedSampler(data, shuffle=True)
    loader = DataLoader(data, batch_size=64, sampler=sampler)

    model = DistributedDataParallel(TwoHeads().to(device))
    multi = MultiLoss(MGDA())  # sums over the ranks what has to be summed
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    for epoch in range(5):
        sampler.set_epoch(epoch)
        for inputs, mean, sign in loader:
            features, outputs = model(inputs.to(device))
            share = batch_share(len(inputs))  # 1, unless a rank's batch is smaller
            losses = {
                "mean": share * F.mse_loss(outputs["mean"], mean.to(device)),
                "sign": share * F.cross_entropy(outputs["sign"], sign.to(device)),
            }
            optimizer.zero_grad()
            result = multi.backward(losses, features=features)
            optimizer.step()
        if dist.get_rank() == 0:  # losses are averaged over the ranks, weights are the same on all
            values = " ".join(f"{name} {float(value):.3f}" for name, value in result.losses.items())
            print(f"epoch {epoch + 1} {values}")  # in one piece: the ranks share the terminal
    total = sum(float(parameter.detach().double().sum()) for parameter in model.parameters())
    print(f"rank {dist.get_rank()} parameters {total:.12f}", flush=True)  # the same on all ranks
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
