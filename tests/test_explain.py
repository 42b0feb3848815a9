"""multi.explain: which parameters are merged, and where features could be taken."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.weighting import MGDA, Uncertainty
from tests.test_cut import Pyramid, Stages


class Net(nn.Module):
    """Every kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)  # losses reach it through the features and around them
        self.body = nn.Linear(4, 4)
        self.neck = nn.Linear(4, 4)  # after the features, for both losses
        self.heads = nn.ModuleDict({name: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)) for name in "ab"})
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        first = torch.tanh(self.stem(x))
        z = torch.tanh(self.body(first))
        seen = self.neck(z)
        losses = {name: head(seen).square().mean() for name, head in self.heads.items()}
        losses["b"] = losses["b"] + first.square().mean()
        return z, losses


def explained(with_features: bool = True):
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net(torch.randn(5, 4))
    return multi.explain(losses, features=z if with_features else None, model=net)


def test_every_kind() -> None:
    kinds = explained().kinds()
    assert kinds["stem.weight"] == kinds["stem.bias"] == "partly merged"
    assert kinds["body.weight"] == "merged"
    assert kinds["neck.weight"] == "shared, bypassing"
    assert kinds["heads.a.0.weight"] == "one loss's own"
    assert kinds["unused.weight"] == "not reached"
    assert "frozen.weight" not in kinds
    assert explained().numbers()["partly merged"] == 20


def test_the_table_joins_what_agrees() -> None:
    assert explained().table() == [
        ("stem", 20, "partly merged", ("b",)),
        ("body", 20, "merged", ()),
        ("neck", 20, "shared, bypassing", ("a", "b")),
        ("heads.a", 19, "one loss's own", ("a",)),
        ("heads.b", 19, "one loss's own", ("b",)),
        ("unused", 6, "not reached", ()),
    ]


def test_words() -> None:
    text = str(explained())
    assert "partly merged: 20 numbers (19%); losses reach them through the features and around them" in text
    assert "  neck               20  shared, bypassing (all losses)" in text
    assert "Features could be these tensors, the last that losses share:" in text
    assert "[5, 4], made after neck, used by all losses" in text


def test_places_of_a_single_encoder() -> None:
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    heads = nn.ModuleDict({name: nn.Linear(5, 1) for name in "abc"})
    z = encoder(torch.randn(7, 4))
    losses = {name: head(z).square().mean() for name, head in heads.items()}
    model = nn.ModuleDict({"encoder": encoder, "heads": heads})
    found = MultiLoss().explain(losses, model=model)
    (place,) = found.places
    assert place.shape == (7, 5)
    assert place.after == "encoder.2"
    assert place.losses == ("a", "b", "c")
    assert "Pass it as features=" in str(found)
    whole = MultiLoss().explain(losses, features=z, model=model)
    assert set(whole.kinds().values()) == {"merged", "one loss's own"}
    assert "could be" not in str(whole)


@pytest.mark.parametrize("net", [Stages, Pyramid])
def test_proposed_cuts_merge_all_that_is_shared(net: type[Stages]) -> None:
    model, multi = net(), MultiLoss(MGDA())
    x = torch.randn(6, 4, dtype=torch.float64)
    found = multi.explain(model.losses(model.encode(x, lambda z: z)), model=model)
    assert len(found.places) == 3
    assert sum(place.nested for place in found.places) == 2
    assert "z = multi.cut(z) for each in the forward" in str(found)
    losses = model.losses(model.encode(x, multi.cut))
    cut = multi.explain(losses, model=model)
    assert cut.features == 3
    assert set(cut.kinds().values()) == {"merged", "one loss's own"}
    multi.backward(losses)  # the cuts are still there


def test_without_a_model_parameters_go_by_shape() -> None:
    net = Net()
    z, losses = net(torch.randn(5, 4))
    found = MultiLoss().explain(losses, features=z)
    assert len(found.parameters) == 6 + 8  # weights and biases
    assert all(parameter.name.startswith("leaf ") for parameter in found.parameters)


def test_nothing_shared_is_said() -> None:
    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    x = torch.ones(1, 2)
    assert "there is nothing to merge" in str(MultiLoss().explain([a(x).sum(), b(x).sum()]))


def test_a_first_step_warns_of_parameters_partly_behind_the_features() -> None:
    net, multi = Net(), MultiLoss(MGDA())
    z, losses = net(torch.randn(5, 4))
    with pytest.warns(UserWarning, match=r"2 parameters \(the largest of shape \[4, 4\]\) are reached"):
        multi.backward(losses, features=z)
    for method in (
        multi,
        MultiLoss(Uncertainty()),
    ):  # told once; and without a merge there is no part
        z, losses = net(torch.randn(5, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method.backward(losses, features=z)
