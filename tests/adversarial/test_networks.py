import pytest
import torch
from torch import nn

from manyloss.adversarial import networks
from tests.forkserver import CONTEXT, ended, started


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolutions(model, kernel):
    return sum(isinstance(m, nn.Conv2d) and m.kernel_size == (kernel, kernel) for m in model.modules())


def test_leaky_copies_everything_but_the_relus():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    copied = networks.leaky(model)
    assert isinstance(model[1], nn.ReLU)
    assert [m.negative_slope for m in copied.modules() if isinstance(m, nn.LeakyReLU)] == [0.2, 0.2]
    assert not any(isinstance(m, nn.ReLU) for m in copied.modules())
    assert torch.equal(copied[0].weight, model[0].weight)
    assert copied[0].weight is not model[0].weight
    with pytest.raises(ValueError, match=r"Linear holds no nn.ReLU module .*write functional relu\(\) calls"):
        networks.leaky(nn.Linear(2, 2))


def test_resnet18_for_cifar_has_the_published_size():
    model = networks.resnet18()
    assert count(model) == 11_173_962
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert any(isinstance(m, nn.LeakyReLU) for m in model.modules())
    assert not any(isinstance(m, nn.LeakyReLU) for m in networks.resnet18(slope=0.0).modules())


def test_resnet11_has_eight_modules_of_one_or_four_of_two_convolutions():
    x = torch.rand(2, 3, 32, 32)
    for modules in (8, 4):
        model = networks.resnet11(modules=modules)
        assert convolutions(model, 3) == 9
        assert sum(isinstance(m, networks.ResidualModule) for m in model.modules()) == modules
        assert model(x).shape == (2, 1)
    assert networks.resnet11(modules=4, stem_stride=2)[0](torch.rand(1, 3, 64, 64)).shape[-1] == 32
    with pytest.raises(ValueError, match="modules must be one of '8', '4'; received '5'"):
        networks.resnet11(modules=5)


def test_the_task_classifier_halves_its_channels():
    model = networks.falling_resnet11(4, 512)
    widths = [m.body[0].out_channels for m in model.modules() if isinstance(m, networks.ResidualModule)]
    assert widths == [256, 128, 64, 32]
    assert model[-1].out_features == 4


def test_cnn5_is_the_supplements():
    model = networks.cnn5(10, slope=0.0)
    assert [(m.out_channels, m.stride[0]) for m in model if isinstance(m, nn.Conv2d)] == [
        (32, 1),
        (64, 2),
        (128, 2),
    ]
    assert [m.out_features for m in model if isinstance(m, nn.Linear)] == [128, 10]
    assert sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in model) == 4
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert networks.cnn5(image_size=30)(torch.rand(2, 3, 30, 30)).shape == (2, 1)


def test_mlp_takes_any_shape():
    assert networks.mlp(12, 3)(torch.rand(2, 3, 4)).shape == (2, 3)


def shortcuts_with_channels_last(answer):
    """In a process of its own: torch's strided convolution would end it."""
    torch.manual_seed(0)
    strided = nn.Conv2d(8, 16, 1, 2, bias=False)
    same = networks.EveryNth(8, 16, 2)
    same.load_state_dict(strided.state_dict())
    x = torch.randn(2, 8, 64, 64)
    found = []
    for layer, layout in ((strided, torch.contiguous_format), (same, torch.channels_last)):
        inputs = x.to(memory_format=layout, copy=True).requires_grad_()
        outputs = layer.to(memory_format=layout)(inputs)
        gradients = torch.autograd.grad(outputs.square().sum(), [inputs, layer.weight])
        found.append([each.detach().contiguous() for each in (outputs, *gradients)])
    answer.put([float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True)])


def test_a_shortcut_is_a_strided_convolution_in_any_layout():
    answer = CONTEXT.SimpleQueue()
    process = started(shortcuts_with_channels_last, answer)
    assert ended([process]) == [0]
    differences = answer.get()
    assert len(differences) == 3
    assert max(differences) < 1e-5
    assert isinstance(networks.shortcut(8, 8, 1), nn.Identity)
    assert networks.shortcut(8, 8, 2)(torch.randn(1, 8, 5, 4)).shape == (1, 8, 3, 2)
