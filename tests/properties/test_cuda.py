"""On a GPU every method does what it does on the CPU; its state travels between the two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from tests.problems import Maps, Network
from tests.properties.methods import MethodCase, every_method
from tests.properties.test_state import through_a_file

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)


class OnCuda:
    """Mixed into a network: all of it, and its inputs, on the GPU."""

    def __init__(self, *arguments: object, **keywords: object):
        super().__init__(*arguments, **keywords)
        self.encoder.cuda()
        self.heads.cuda()

    def inputs(self, step: int) -> Tensor:
        return super().inputs(step).cuda()


class CudaNetwork(OnCuda, Network):
    pass


class CudaMaps(OnCuda, Maps):
    pass


def train(case: MethodCase, multi: MultiLoss, network: Network, steps: range, where: str) -> list[Tensor]:
    """Gradients of every step, on the CPU; the network moves, an epoch ends every second step."""
    written = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for step in steps:
        gradients, _ = case.step(multi, network, step, where)
        written += [gradient.cpu() for gradient in gradients if gradient is not None]
        optimizer.step()
        if step % 2 == 1:
            multi.end_epoch()
    return written


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("place", ["usual", "shared_params"])
@pytest.mark.parametrize("kinds", [(Network, CudaNetwork), (Maps, CudaMaps)], ids=["rows", "maps"])
@every_method
def test_a_gpu_gives_the_cpus_gradients(case: MethodCase, kinds: tuple[type, type], place: str) -> None:
    here, there = kinds[0](), kinds[1]()
    expected = train(case, case.multi(seed=7), here, range(4), place)
    assert_near(train(case, case.multi(seed=7), there, range(4), place), expected)


@pytest.mark.parametrize("place", ["usual", "shared_params"])
@every_method
def test_a_state_of_the_gpu_goes_on_on_the_cpu(case: MethodCase, place: str) -> None:
    there, multi = CudaNetwork(), case.multi(seed=7)
    train(case, multi, there, range(3), place)
    parts = {"encoder": there.encoder.state_dict(), "heads": there.heads.state_dict()}
    saved = through_a_file({"multi": multi.state_dict(), **parts})
    expected = train(case, multi, there, range(3, 6), place)
    here, fresh = Network(seed=99), case.multi(seed=1234)
    here.encoder.load_state_dict(saved["encoder"])
    here.heads.load_state_dict(saved["heads"])
    fresh.load_state_dict(saved["multi"])
    assert_near(train(case, fresh, here, range(3, 6), place), expected)


@pytest.mark.parametrize("place", ["usual", "shared_params"])
@every_method
def test_half_precision_on_a_gpu_is_near_full(case: MethodCase, place: str) -> None:
    found = []
    for enabled in (True, False):
        network = CudaMaps(dtype=torch.float32)
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            features, losses = network.forward(0)
        case.multi(seed=7).backward(losses, **case.place(network, features, place))
        found.append([gradient for gradient in network.gradients() if gradient is not None])
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in found[0])
    assert len(found[0]) == len(found[1])
