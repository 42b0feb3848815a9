"""Small models and data of the adversarial tests."""

import torch
from torch import nn

from manyloss.adversarial import networks


def smooth(outputs=4, dtype=torch.float64):
    """No BatchNorm, and second derivatives that are not 0."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.Softplus(), nn.Linear(9, outputs)).to(dtype)


def convolutional(outputs=4):
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, outputs)
    )


def batch(count=6, outputs=4, dtype=torch.float64, shape=(6,)):
    return torch.rand(count, *shape, dtype=dtype), torch.randint(outputs, (count,))


def images(count=6, outputs=4):
    return batch(count, outputs, torch.float32, (1, 4, 4))


def defense_pair():
    model = convolutional()
    return model, networks.leaky(model)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before, module):
    after = module.state_dict()
    return all(torch.equal(value, after[name]) for name, value in before.items())
