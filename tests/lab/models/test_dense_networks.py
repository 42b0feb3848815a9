"""The networks of the dense experiments: sizes and shapes that the papers give."""

import pytest
import torch
from torch import nn

from manyloss.lab.checks import LabError
from manyloss.lab.models.dilated_resnet import dilated_resnet, task_decoder
from manyloss.lab.models.segnet import Encoder, EncoderWithDecoders, TaskDecoder, load_vgg16
from manyloss.lab.models.thin_fcn import thin_fcn


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_thin_fcn_has_15_million_parameters_and_no_2048_filters():
    with torch.device("meta"):
        model = thin_fcn()
        heads = nn.ModuleList(nn.Conv2d(128, channels, 1) for channels in (1, 48, 3))
    assert size(model) + size(heads) == pytest.approx(15e6, rel=0.03)
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    assert max(layer.out_channels for layer in layers) == 1024
    assert model(torch.empty(1, 3, 320, 320, device="meta")).shape == (1, 128, 80, 80)
    assert thin_fcn(2, 5)(torch.randn(2, 3, 32, 32)).shape == (2, 1, 32, 32)


def test_the_dilated_resnet_has_43_layers_with_dilations_2_4_and_2():
    with torch.device("meta"):
        model = dilated_resnet()
        decoder = task_decoder(512, 48)
    path = [
        layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and ".skip" not in name
    ]
    assert len(path) == 43
    dilations = [layer.dilation[0] for layer in path]
    assert [d for d, before in zip(dilations, [0, *dilations], strict=False) if d != before] == [
        1,
        2,
        4,
        2,
        1,
    ]
    features = model(torch.empty(1, 3, 320, 320, device="meta"))
    assert features.shape == (1, 512, 40, 40)
    assert decoder(features).shape == (1, 48, 80, 80)
    assert sum(isinstance(layer, nn.Conv2d) for layer in decoder) == 3


def test_every_decoder_unpools_to_the_shared_encoders_places():
    model = EncoderWithDecoders(Encoder(2), {"a": TaskDecoder(2, 3, 5), "b": TaskDecoder(2, 3, 1)})
    features, outputs = model(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 16, 2, 2)
    assert {task: tuple(out.shape) for task, out in outputs.items()} == {
        "a": (2, 5, 16, 16),
        "b": (2, 1, 16, 16),
    }
    model.selected = ("b",)
    assert list(model(torch.randn(2, 3, 64, 64))[1]) == ["b"]
    grads = torch.autograd.grad(outputs["a"].sum(), features, create_graph=True)
    grads[0].square().sum().backward()  # CosReg differentiates twice


@pytest.mark.parametrize("batchnorm", [False, True])
def test_imagenets_weights_come_from_torchvisions_file(tmp_path, batchnorm):
    torch.manual_seed(0)
    given, wanted = Encoder(2), Encoder(2)
    layers = []
    for block in given.blocks:
        layers += [layer for layer in block if batchnorm or not isinstance(layer, nn.BatchNorm2d)]
        layers.append(nn.MaxPool2d(2))
    saved = {f"features.{name}": value for name, value in nn.Sequential(*layers).state_dict().items()}
    torch.save({**saved, "classifier.0.weight": torch.zeros(3, 3)}, tmp_path / "vgg16.pth")
    load_vgg16(wanted, tmp_path / "vgg16.pth")
    assert all(
        torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
        for one, other in zip(given.modules(), wanted.modules(), strict=True)
        if isinstance(one, nn.Conv2d)
    )
    with pytest.raises(
        LabError, match=r"vgg16.pth holds 13 layers of the kind Conv2d, VGG16 of this width has 13"
    ):
        load_vgg16(Encoder(4), tmp_path / "vgg16.pth")


@pytest.mark.parametrize("content", [b"", b"no weights", "a list"])
def test_a_file_without_weights_is_said_to_be_one(tmp_path, content):
    path = tmp_path / "vgg16.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save([1], path)
    with pytest.raises(
        LabError, match=r"vgg16\.pth holds no weights \(.*Give the state_dict of torchvision's"
    ):
        load_vgg16(Encoder(2), path)
    with pytest.raises(LabError, match="Cannot read"):
        load_vgg16(Encoder(2), tmp_path / "nowhere.pth")
