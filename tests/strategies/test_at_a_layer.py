"""Norms at one layer's weight, from the gradients at its output: the engine's numbers are the naive ones."""

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.diagnostics import ConflictRecorder
from manyloss.graph import edge_of
from manyloss.layer_norms import layer_behind
from manyloss.weighting import GradNorm, PCGrad

T = 12


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 24, 3, padding=1)
        self.last = nn.Conv2d(24, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.heads = nn.ModuleList(nn.Linear(24, 1) for _ in range(T))
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.stem(x).relu()
        z = (h + self.norm(self.last(h))).relu().mean((2, 3))
        return z, {str(i): (head(z) - i).square().mean() for i, head in enumerate(self.heads)}


def naive(net: Net, x: Tensor) -> Tensor:
    _, losses = net(x)
    return torch.stack(
        [
            torch.autograd.grad(loss, net.last.weight, retain_graph=True)[0].flatten()
            for loss in losses.values()
        ]
    )


def test_the_shortcut_is_taken_here() -> None:
    net = Net()
    z, _ = net(torch.randn(4, 2, 4, 4, dtype=torch.float64))
    assert layer_behind([edge_of(z)], [net.last.weight], T) is not None


@pytest.mark.parametrize("watched", [False, True])
def test_gradnorm_at_the_last_convolution(watched: bool) -> None:
    """Three steps of weights and gradients equal those of one read per loss, with a recorder, too."""
    shortcut, plain = Net(), Net()
    multi, slow = MultiLoss(GradNorm()), MultiLoss(GradNorm(), read="per_loss")
    recorder = ConflictRecorder(multi, every=1) if watched else None
    for step in range(3):
        x = torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        rows = naive(plain, x)
        results = []
        for net, one in ((shortcut, multi), (plain, slow)):
            net.zero_grad()
            z, losses = net(x)
            results.append(one.backward(losses, features=z, shared_params=net.last.weight))
        found = torch.stack(list(results[0].norms.values()))
        torch.testing.assert_close(found, rows.norm(dim=1), rtol=1e-10, atol=0.0)
        assert results[0].path == "one_backward"
        torch.testing.assert_close(
            list(results[0].weights.values()), list(results[1].weights.values()), rtol=1e-9, atol=0.0
        )
        for ours, theirs in zip(shortcut.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
        if recorder is not None:
            torch.testing.assert_close(results[0].gramian, rows @ rows.T, rtol=1e-9, atol=1e-12)
            assert recorder.records[-1]["place"] == "shared_params"


def test_a_gramian_weighting_at_the_last_convolution() -> None:
    net = Net()
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    rows = naive(net, x)
    z, losses = net(x)
    result = MultiLoss(PCGrad(seed=0)).backward(losses, features=z, shared_params=net.last.weight)
    torch.testing.assert_close(result.gramian, rows @ rows.T, rtol=1e-9, atol=1e-12)
