"""What torch is set to around a step changes nothing, or is refused with the reason."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.problems import Network, assert_identical
from tests.properties.methods import MethodCase, every_method

Around = Callable[[], AbstractContextManager[Any]]


class EveryCall(TorchFunctionMode):
    """A user's function mode that passes everything on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Around] = {
    "no_grad": torch.no_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "a default device": lambda: torch.device("meta"),
    "a default dtype": default_dtype,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic algorithms": deterministic,
    "a function mode": EveryCall,
}


def three_steps(case: MethodCase, where: str, around: Around | None) -> list[Any]:
    network, multi = Network(dtype=torch.float32), case.multi()
    written = []
    for step in range(3):
        network.zero_grad()
        features, losses = network.forward(step)
        place = case.place(network, features, where)
        if around is None:
            multi.backward(losses, **place, measure=True)
        else:
            with around():
                result = multi.backward(losses, **place, measure=True)
                assert result.cosines is not None
                assert repr(result)
                multi.state_dict()
        written += network.gradients()
    return written


@pytest.mark.parametrize("where", ["usual", "shared_params"])
@pytest.mark.parametrize("mode", MODES)
@every_method
def test_a_step_is_the_same(case: MethodCase, mode: str, where: str) -> None:
    where = "usual" if case.needs_features else where
    assert_identical(three_steps(case, where, MODES[mode]), three_steps(case, where, None))


@every_method
def test_inference_mode_is_refused_with_the_reason(case: MethodCase) -> None:
    network = Network()
    features, losses = network.forward()
    place = case.place(network, features)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*leave the mode before"):
        case.multi().backward(losses, **place)
    assert network.gradients() == [None] * len(network.parameters())
