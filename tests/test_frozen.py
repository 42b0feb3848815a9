"""multi.frozen: the first step weighs and learns, all others are of the same function and change nothing."""

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.diagnostics import ConflictRecorder
from manyloss.penalties import CosReg
from manyloss.weighting import GradNorm, Random, Static
from tests.problems import assert_identical, assert_same
from tests.properties.methods import MethodCase, flat, methods


class Net(nn.Module):
    """One network, no heads: every loss reaches every parameter, as in a physics-informed network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
        self.double()

    def losses(self, count: int) -> dict[str, Tensor]:
        inputs = torch.randn(count, 8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return {
            f"loss_{i}": (self.layers(x) - (-1.0) ** i * (i + 1)).square().mean() + 0.1
            for i, x in enumerate(inputs)
        }


def moved(net: Net) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01)


@methods(lambda case: case.family == "weighting")
def test_every_call_is_the_gradient_of_one_weighted_sum(case: MethodCase) -> None:
    net, multi, count = Net(), case.multi(3), 3
    multi.backward(net.losses(count), shared_params=net)
    before: dict[str, object] = {}
    with multi.frozen():
        for call in range(3):
            net.zero_grad()
            result = multi.backward(net.losses(count), shared_params=net)
            if call == 0:
                weights = dict(result.weights)
                before = flat(multi.state_dict())
            assert result.weights == weights
            total = sum(
                w * loss for w, loss in zip(weights.values(), net.losses(count).values(), strict=True)
            )
            assert_same([result.weighted_sum], [total.detach()], rtol=1e-12)
            expected = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
            assert_same([p.grad for p in net.parameters()], list(expected), rtol=1e-9, atol=1e-12)
            moved(net)
    assert flat(multi.state_dict()) == before
    assert multi.last is result


def test_in_a_line_search_it_is_the_plain_weighted_sum_bit_for_bit() -> None:
    """L-BFGS on a loss weighting goes where L-BFGS on the fixed sum goes."""
    ends = []
    for kind in ("frozen", "by hand"):
        net, multi = Net(), MultiLoss(Static([1.0, 3.0, 0.5]))
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=30, line_search_fn="strong_wolfe")

        def closure(net: Net = net, multi: MultiLoss = multi, kind: str = kind) -> Tensor:
            net.zero_grad()
            losses = list(net.losses(3).values())
            if kind == "frozen":
                return multi.backward(losses).weighted_sum
            total = losses[0] + 3.0 * losses[1] + 0.5 * losses[2]
            total.backward()
            return total

        with multi.frozen():
            optimizer.step(closure)
        ends.append(list(net.parameters()))
    assert_same(ends[0], ends[1], rtol=1e-7, atol=1e-9)


def test_weights_are_weighed_anew_outside_and_in_the_next() -> None:
    net, multi = Net(), MultiLoss(Random(seed=0))
    seen = []
    for _ in range(2):
        with multi.frozen():
            seen += [[float(w) for w in multi.backward(net.losses(3)).weights.values()] for _ in range(2)]
    seen.append([float(w) for w in multi.backward(net.losses(3)).weights.values()])
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert len({tuple(weights) for weights in seen}) == 3


def test_nothing_is_recorded_after_the_first_call() -> None:
    net, multi = Net(), MultiLoss(GradNorm())
    with ConflictRecorder(multi, every=1) as recorder, multi.frozen():
        for _ in range(4):
            multi.backward(net.losses(3), shared_params=net)
    assert len(recorder.records) == 1


def test_an_error_ends_it() -> None:
    net, multi = Net(), MultiLoss()
    with pytest.raises(ValueError, match="nan"), multi.frozen():
        multi.backward([loss * float("nan") for loss in net.losses(2).values()])
    multi.total(net.losses(2)).backward()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"aggregator": GradDrop(seed=0)}, "GradDrop"),
        ({"penalties": [CosReg()]}, "CosReg"),
        ({"rescale": "sum_norm"}, "rescale='sum_norm'"),
    ],
)
def test_what_is_no_weighted_sum_is_refused(settings, named) -> None:
    with (
        pytest.raises(ValueError, match=rf"with {named} a step does not write the gradient of a fixed w"),
        MultiLoss(**settings).frozen(),
    ):
        pass


@methods(lambda case: case.weighs_gradients)
def test_a_gradient_weighting_has_to_weigh_all_parameters(case: MethodCase) -> None:
    encoder, head = nn.Linear(3, 4).double(), nn.Linear(4, 1).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def losses() -> tuple[Tensor, list[Tensor]]:
        z = encoder(x).tanh()
        return z, [(head(z) - i).square().mean() + 0.1 for i in range(3)]

    for place, text in (
        (lambda z: {"features": z}, "weighs only what arrives at the features"),
        (
            lambda z: {"shared_params": encoder},
            r"only the shared parameters, and not 2 others \(the largest \[1",
        ),
    ):
        multi = case.multi(3)
        z, given = losses()
        with pytest.raises(ValueError, match=text), multi.frozen():
            multi.backward(given, **place(z))
        assert multi.names is None
    assert encoder.weight.grad is None
    with multi.frozen():
        multi.backward(losses()[1], shared_params=[*encoder.parameters(), *head.parameters()])


def test_a_total_a_new_loss_and_one_inside_another_are_refused() -> None:
    net, multi = Net(), MultiLoss()
    a, b = net.losses(2).values()
    with multi.frozen():
        with pytest.raises(RuntimeError, match=r"return multi\.backward\(losses, \.\.\.\)\.weighted_sum"):
            multi.total({"a": a, "b": b})
        multi.backward({"a": a, "b": None})
        with pytest.raises(ValueError, match="'b' was absent in it: give the same losses in every call"):
            multi.backward({"a": net.losses(1)["loss_0"], "b": b})
        with pytest.raises(RuntimeError, match=r"is inside of another one"), multi.frozen():
            pass
        multi.backward({"a": net.losses(1)["loss_0"], "b": None})


def test_a_scale_and_a_division_reach_what_is_written() -> None:
    net, multi = Net(), MultiLoss(Static([1.0, 2.0]))
    grads = []
    with multi.frozen():
        for divide_by in (1.0, 1.0, 4.0):
            net.zero_grad()
            multi.backward(net.losses(2), divide_by=divide_by)
            grads.append([parameter.grad for parameter in net.parameters()])
    assert_identical(grads[0], grads[1])
    assert_same([4 * grad for grad in grads[2]], grads[1], rtol=1e-12)
