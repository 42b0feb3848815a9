"""Four small nets on scikit-learn's digits: undefended, PGD-trained, gradient-shattering, logit-scaling."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

EPS = 0.2


def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[:1300], y[:1300]), (x[1300:], y[1300:])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def attacked_by_hand(model, x, y, eps, steps):
    """PGD without the library, so that the nets do not depend on what they test."""
    moved = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
        moved = moved.detach() + 2.5 * eps / steps * gradient.sign()
        moved = torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)
    return moved.detach()


def trained(epochs, eps=0.0):
    torch.manual_seed(0)
    (x, y), _ = digits()
    model = convolutional()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(epochs):
        for at in torch.randperm(len(y)).split(64):
            images = x[at]
            if eps:
                images = attacked_by_hand(model, images, y[at], eps * min(1, (epoch + 1) / 5), 5)
            optimizer.zero_grad()
            F.cross_entropy(model(images), y[at]).backward()
            optimizer.step()
    return model.eval()


class Shattered(nn.Module):
    """A wave of tiny amplitude and enormous slope on every pixel: outputs nearly the same, gradients
    noise."""

    def __init__(self, model, amplitude=0.01, frequency=3000.0):
        super().__init__()
        self.model, self.amplitude, self.frequency = model, amplitude, frequency

    def forward(self, x):
        return self.model(x + self.amplitude * torch.sin(self.frequency * x))


class Scaled(nn.Module):
    """Logits so large that the softmax saturates and its gradient is exactly 0."""

    def __init__(self, model, factor=1e3):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)
