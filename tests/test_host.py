"""A step that needs no number on the host asks the device for none; what it finds later is told later."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from manyloss import MultiLoss, precision
from manyloss.aggregation import GradDrop, Sum
from manyloss.errors import NotFiniteError
from manyloss.weighting import MGDA, Equal, Random, Static
from tests.problems import Network

ASKS = ("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.equal")


class Asked(TorchDispatchMode):
    """Counts what makes a host wait for a device: single numbers, and copies to the host's memory.

    The model is in float32 and what the host holds in float64: what is copied from float32 is the model's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        copied = name.startswith("aten._to_copy") and (kwargs or {}).get("device") == torch.device("cpu")
        if name.startswith(ASKS) or (copied and args[0].dtype == torch.float32):
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


NO_NUMBERS: dict[str, Callable[[], MultiLoss]] = {
    "Equal": lambda: MultiLoss(Equal()),
    "Sum": lambda: MultiLoss(aggregator=Sum()),
    "Static": lambda: MultiLoss(Static([1.0, 2.0, 0.5])),
    "Random": lambda: MultiLoss(Random(seed=0)),
    "GradDrop": lambda: MultiLoss(aggregator=GradDrop(seed=0)),
    "GradDrop, renormalized": lambda: MultiLoss(aggregator=GradDrop(renormalize=True, seed=0)),
    "Random, GradDrop": lambda: MultiLoss(Random(seed=0), GradDrop(seed=0)),
}


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the processor as a device that has to be waited for: there is no other one here."""
    monkeypatch.setattr(precision, "has_to_be_waited_for", lambda device: True)


@pytest.mark.parametrize("where", ["features", "shared_params"])
@pytest.mark.parametrize("name", NO_NUMBERS)
def test_no_number_is_asked_for(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    network, multi = Network(dtype=torch.float32), NO_NUMBERS[name]()
    for step in range(3):
        features, losses = network.forward(step)
        place: dict[str, Any] = (
            {"features": features[0]} if where == "features" else {"shared_params": network.encoder}
        )
        with Asked() as asked:
            multi.backward(losses, **place)
        assert asked.calls == ([] if step == 0 else asked.calls[:1])  # the answer of the step before


def test_the_counter_counts() -> None:
    network = Network(dtype=torch.float32)
    features, losses = network.forward()
    with Asked() as asked:
        MultiLoss(MGDA()).backward(losses, features=features[0])
        features[0].detach().sum().item()
    assert asked.calls


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_what_is_found_later_is_told_at_the_next_step(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    network, multi = Network(dtype=torch.float32), MultiLoss(aggregator=GradDrop(seed=0))
    features, losses = network.forward()
    if fault == "loss":
        losses["loss_1"] = losses["loss_1"] * torch.inf
    else:
        losses["loss_1"] = losses["loss_1"] + 0 * (features[0] * 0).sqrt().sum()  # 0 * inf in the backward
    multi.backward(losses, features=features[0])
    features, losses = network.forward(1)
    with pytest.raises(NotFiniteError, match="of the step before this one was not finite"):
        multi.backward(losses, features=features[0])
    features, losses = network.forward(2)
    multi.backward(losses, features=features[0])


def test_a_processor_is_asked_at_once() -> None:
    network = Network(dtype=torch.float32)
    features, losses = network.forward()
    losses["loss_1"] = losses["loss_1"] * torch.inf
    with pytest.raises(NotFiniteError, match="'loss_1' is inf"):
        MultiLoss(Static([1.0, 1.0, 1.0])).backward(losses, features=features[0])
    assert network.gradients() == [None] * len(network.parameters())
