import pytest
import torch

from manyloss.lab import ArmContext, LabError
from manyloss.lab.arms import choose_arm
from manyloss.lab.spaces import Space
from tests.lab.arms.left_and_right import Plain


@pytest.mark.parametrize(
    ("text", "name"),
    [("dualproj", "torchjd:DualProj"), ("torchjd:UPGrad", "torchjd:UPGrad"), ("upgrad", "upgrad")],
)
def test_methods_of_torchjd_need_no_arm(text, name):
    pytest.importorskip("torchjd")
    chosen = choose_arm(text, Plain())
    assert chosen.name == name
    x = torch.ones(3, requires_grad=True)
    multi = chosen.build(ArmContext(("left", "right"), 0))
    multi.backward({"left": x.sum(), "right": (2 * x).sum()}, shared_params=[x])
    assert torch.isfinite(x.grad).all()


def test_methods_of_torchjd_have_options_and_can_be_tuned():
    pytest.importorskip("torchjd")
    chosen = choose_arm("torchjd:DualProj:optimizer.lr_factor=3", Plain())
    assert chosen.name == "torchjd:DualProj:optimizer.lr_factor=3"
    assert chosen.optimizer.lr_factor == 3
    space = Space.of(choose_arm("dualproj", Plain()))
    assert choose_arm(space.text({"optimizer.lr_factor": 0.3}), Plain()).name.endswith("lr_factor=0.3")
    trimmed = choose_arm("trimmedmean:trim_number=0:optimizer.weight_decay=0.1", Plain())
    assert trimmed.name == "torchjd:TrimmedMean:optimizer.weight_decay=0.1:trim_number=0"
    assert choose_arm(trimmed.name, Plain()).name == trimmed.name
    x = torch.ones(3, requires_grad=True)
    multi = trimmed.build(ArmContext(("left", "right"), 0))
    multi.backward({"left": x.sum(), "right": (2 * x).sum()}, shared_params=[x])
    assert torch.equal(x.grad, torch.full((3,), 1.5))  # the mean, untrimmed
    # What is not given is TorchJD's own, and none of a trial's settings: folders stay the same trials'.
    assert choose_arm("torchjd:PCD", Plain()).own_options == {}
    assert choose_arm("torchjd:PCD:tau=0.02", Plain()).name == "torchjd:PCD"
    assert choose_arm("torchjd:PCD:beta=0.9", Plain()).own_options == {"beta": 0.9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torchjd:Krum", r"'torchjd:Krum' cannot be built: .*missing 1 required .*'n_byzantine'"),
        ("torchjd:Krum:f=1", r"'torchjd:Krum' has no option 'f'. Known: n_byzantine, n_selected, optimizer"),
        ("torchjd:Nothing:x=1", r"There is no method 'torchjd:Nothing'"),
        ("x=1:dualproj", r"There is no method 'dualproj' \(in 'x=1:dualproj'\)"),
    ],
)
def test_methods_of_torchjd_that_cannot_be_are_named(text, said):
    pytest.importorskip("torchjd")
    with pytest.raises(LabError, match=said):
        choose_arm(text, Plain())
