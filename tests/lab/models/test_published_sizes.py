"""Parameter counts against the published ones, and one training step of every network."""

import pytest
import torch
import torch.nn.functional as F

from manyloss.lab.checks import LabError
from manyloss.lab.models.cnn5 import cnn5
from manyloss.lab.models.resnet import resnet11, resnet18, resnet18_encoder, resnet50, resnet152
from manyloss.lab.models.resnext import resnext29


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


PUBLISHED = {
    "ResNet-18, CIFAR-10": (lambda: resnet18(10, 32), 11.17e6),
    "ResNet-18, ImageNet": (lambda: resnet18(1000, 224), 11_689_512),
    "ResNet-50, ImageNet": (lambda: resnet50(1000, 224), 25_557_032),
    "ResNet-50, CIFAR-10": (lambda: resnet50(10, 32), 23.52e6),
    "ResNet-152, ImageNet": (lambda: resnet152(1000, 224), 60_192_808),
    "ResNet-152, 200 classes of 64x64": (lambda: resnet152(200, 64), 58.14e6 + 2048 * 200),
    "ResNeXt-29 8x64d, CIFAR-10": (lambda: resnext29(10), 34.4e6),
    # the supplement's layers counted by hand: convolutions with bias, their BatchNorms, 8192-128-10
    "CNN-5": (lambda: cnn5(10), 896 + 18_496 + 73_856 + 2 * (32 + 64 + 128 + 128) + 1_048_704 + 1_290),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameter_count_is_the_published_one(name):
    make, published = PUBLISHED[name]
    with torch.device("meta"):
        model = make()
    assert count(model) == pytest.approx(published, rel=0.03 if published > 2e6 else 0)


@pytest.mark.parametrize("name", ["ResNet-18, ImageNet", "ResNet-50, ImageNet", "ResNet-152, ImageNet"])
def test_imagenet_networks_have_the_original_count_to_the_last_parameter(name):
    make, published = PUBLISHED[name]
    with torch.device("meta"):
        assert count(make()) == published


ONE_STEP = {
    "ResNet-18, 32": (lambda: resnet18(10, 32, width=16), 32, 10),
    "ResNet-18, 64": (lambda: resnet18(200, 64, width=16), 64, 200),
    "ResNet-18, 224": (lambda: resnet18(200, 224, width=16), 224, 200),
    "ResNet-11": (lambda: resnet11(1, width=16), 32, 1),
    "ResNet-50, 64": (lambda: resnet50(200, 64, width=8), 64, 200),
    "ResNet-50, 224": (lambda: resnet50(200, 224, width=8), 224, 200),
    "ResNet-152, 64": (lambda: resnet152(200, 64, width=4), 64, 200),
    "ResNet-152, 224": (lambda: resnet152(200, 224, width=4), 224, 200),
    "ResNeXt-29": (lambda: resnext29(10, width=4), 32, 10),
    "CNN-5": (lambda: cnn5(10), 32, 10),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_training_step_reaches_every_parameter(name):
    make, size, outputs = ONE_STEP[name]
    model = make()
    logits = model(torch.rand(2, 3, size, size))
    assert logits.shape == (2, outputs)
    loss = (
        F.cross_entropy(logits, torch.tensor([0, outputs - 1])) if outputs > 1 else F.softplus(logits).mean()
    )
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert sum(bool((p.grad != 0).any()) for p in model.parameters()) > 0.5 * len(list(model.parameters()))


@pytest.mark.parametrize(("make", "size"), [(resnet50, 64), (resnext29, 32)])
@pytest.mark.slow
def test_one_training_step_at_the_papers_width(make, size):
    model = make(10, size) if make is resnet50 else make(10)
    F.cross_entropy(model(torch.rand(2, 3, size, size)), torch.tensor([3, 4])).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("size", "left"), [(32, 4), (64, 4), (224, 7)])
def test_the_encoder_ends_before_the_pooling(size, left):
    encoder = resnet18_encoder(size, width=8)
    assert encoder(torch.rand(1, 3, size, size)).shape == (1, 64, left, left)


def test_another_image_size_is_refused():
    with pytest.raises(LabError, match=r"no ResNet for images of 48 pixels\. Known: 32, 64, 224"):
        resnet18(10, 48)
