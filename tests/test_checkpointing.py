"""What people do around a backward: checkpoints, micro-batches, RNNs, norm layers, hooks on the features.

Each step is compared with gradients put together by hand from one `autograd.grad` per loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.penalties import CosReg
from manyloss.weighting import MGDA, GradNorm, Uncertainty
from tests.problems import assert_identical, assert_same

READS = ["auto", "per_loss"]
PLAIN, REENTRANT, NOT_REENTRANT = "plain", "reentrant", "not reentrant"


def call(module: nn.Module, how: str, given: Tensor) -> Tensor:
    if how == PLAIN:
        return module(given)
    return checkpoint(module, given, use_reentrant=how == REENTRANT)


class Parts(nn.Module):
    """encoder -> features (-> neck) -> heads, all with normalisation."""

    def __init__(self, neck: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 5))
        self.neck = nn.Sequential(nn.Linear(5, 5), nn.Tanh()) if neck else nn.Identity()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1)) for _ in range(3)
        )


def new_parts(neck: bool = False) -> Parts:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Parts(neck).double()


def data(step: int = 0, rows: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(rows, 4, generator=generator, dtype=torch.float64).requires_grad_(True)


def forward(
    parts: Parts, inputs: Tensor, encode: str = PLAIN, head: str = PLAIN
) -> tuple[Tensor, dict[str, Tensor]]:
    features = call(parts.encoder, encode, inputs)
    seen = parts.neck(features)
    outputs = [call(each, head, seen) for each in parts.heads]
    losses = [(1 + i) * (output - (-1.0) ** i).square().mean() for i, output in enumerate(outputs)]
    return features, {"abc"[i]: loss for i, loss in enumerate(losses)}


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if each.grad is None else each.grad.clone() for each in module.parameters()]


def by_hand(module: nn.Module, features: Tensor, losses: dict[str, Tensor], weights: list[float]) -> None:
    """.grad as it should be: what lies before the features gets the weighted sum, the rest the plain one."""
    rows = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses.values()]
    parameters = list(module.parameters())
    total = sum(losses.values())
    plain = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    merged = sum(weight * row for weight, row in zip(weights, rows, strict=True))
    change = torch.autograd.grad(features, parameters, merged - sum(rows), allow_unused=True)
    for parameter, first, second in zip(parameters, plain, change, strict=True):
        parts = [part for part in (first, second) if part is not None]
        parameter.grad = sum(parts) if parts else None


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("head", [PLAIN, NOT_REENTRANT, REENTRANT])
@pytest.mark.parametrize("encode", [PLAIN, NOT_REENTRANT, REENTRANT])
def test_checkpoints_at_the_features(encode: str, head: str, read: str) -> None:
    parts, plain = new_parts(), new_parts()
    multi = MultiLoss(MGDA(), read=read)
    for step in range(2):
        parts.zero_grad()
        features, losses = forward(parts, data(step), encode, head)
        if head == REENTRANT and read == "per_loss":
            with pytest.raises((RuntimeError, ValueError), match="use_reentrant=False"):
                multi.backward(losses, features=features)
            assert gradients(parts) == [None] * len(gradients(parts))
            return
        result = multi.backward(losses, features=features)
        assert result.path == ("one_backward" if read == "auto" else "per_loss")
        features, losses = forward(plain, data(step))
        by_hand(plain, features, losses, [float(weight) for weight in result.weights.values()])
        assert_same(gradients(parts), gradients(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at", ["features", "both", "params"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiLoss(GradNorm()),
        lambda: MultiLoss(Uncertainty(), GradDrop(seed=1)),
        lambda: MultiLoss(MGDA(), penalties=[CosReg(0.5)]),
    ],
    ids=["GradNorm", "Uncertainty, GradDrop", "MGDA, CosReg"],
)
@pytest.mark.parametrize("neck", [False, True])
def test_checkpoints_that_are_not_reentrant_change_nothing(
    make: Callable[[], MultiLoss], at: str, neck: bool
) -> None:
    written = []
    for how in (PLAIN, NOT_REENTRANT):
        parts, multi = new_parts(neck), make()
        for step in range(3):
            parts.zero_grad()
            features, losses = forward(parts, data(step), how, how)
            place: dict[str, Any] = {} if at == "params" else {"features": features}
            if at != "features":
                place["shared_params"] = list(parts.encoder[3].parameters())
            multi.backward(losses, **place)
        written.append(gradients(parts))
    assert_same(written[1], written[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("read", READS)
def test_what_is_decided_per_micro_batch(read: str) -> None:
    """.grad adds up what each micro-batch's own weights give, which are not those of the whole batch."""
    parts, plain = new_parts(), new_parts()
    parts.eval(), plain.eval()  # the batch norm would see each micro-batch by itself
    multi = MultiLoss(MGDA(), read=read)
    per_micro_batch, expected = [], []
    for part in data(rows=8).chunk(2):
        features, losses = forward(parts, part)
        result = multi.backward({name: loss / 2 for name, loss in losses.items()}, features=features)
        per_micro_batch.append([float(weight) for weight in result.weights.values()])
        features, losses = forward(plain, part)
        plain.zero_grad()
        by_hand(plain, features, {n: loss / 2 for n, loss in losses.items()}, per_micro_batch[-1])
        expected.append(gradients(plain))
    assert_same(gradients(parts), [a + b for a, b in zip(*expected, strict=True)], rtol=1e-9, atol=1e-12)
    features, losses = forward(parts, data(rows=8))
    whole = [float(weight) for weight in multi.backward(losses, features=features).weights.values()]
    assert per_micro_batch[0] != pytest.approx(per_micro_batch[1], rel=1e-3)
    assert whole != pytest.approx(per_micro_batch[0], rel=1e-3)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("used", ["sequence", "sequence and state", "both as features"])
@pytest.mark.filterwarnings("ignore:.*only a part of the gradient there is merged")  # "sequence and state"
def test_recurrent_encoders(kind: type[nn.RNNBase], used: str, read: str) -> None:
    """The output sequence as features; the last state beside it is a way around them, or features too."""
    torch.manual_seed(0)
    encoder = kind(3, 4, batch_first=True).double()
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(3)).double()
    both = nn.ModuleList([encoder, heads])
    inputs = torch.randn(5, 6, 3, dtype=torch.float64)
    multi = MultiLoss(MGDA(), read=read)

    def run() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        sequence, state = encoder(inputs)
        last = (state[0] if isinstance(state, tuple) else state)[-1]
        outputs = [heads[0](sequence).mean(), heads[1](sequence[:, -1]).mean(), heads[2](sequence).mean()]
        if used != "sequence":
            outputs[1] = outputs[1] + heads[1](last).mean()
        return sequence, last, {"abc"[i]: (each - 1.0 - i).square() for i, each in enumerate(outputs)}

    sequence, last, losses = run()
    if used == "both as features":
        # Made by one node (GRU, LSTM outputs) or after it: neither is computed from the other.
        result = multi.backward(losses, features=[sequence, last])
        weights = [float(weight) for weight in result.weights.values()]
        written = gradients(both)
        both.zero_grad()
        sequence, last, losses = run()
        rows = [
            torch.autograd.grad(
                loss, [sequence, last], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for loss in losses.values()
        ]
        merged = [sum(w * row[k] for w, row in zip(weights, rows, strict=True)) for k in range(2)]
        expected = list(torch.autograd.grad([sequence, last], list(encoder.parameters()), merged))
        assert_same(written[: len(expected)], expected, rtol=1e-9, atol=1e-12)
        return
    result = multi.backward(losses, features=sequence)
    written = gradients(both)
    both.zero_grad()
    sequence, _, losses = run()
    by_hand(both, sequence, losses, [float(weight) for weight in result.weights.values()])
    assert_same(written, gradients(both), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_penalties_through_recurrent_encoders(kind: type[nn.RNNBase]) -> None:
    """At the encoder's weights, against a finite difference of loss plus penalty."""
    torch.manual_seed(0)
    encoder, heads = kind(3, 4, batch_first=True).double(), nn.ModuleList(nn.Linear(4, 1) for _ in range(2))
    heads.double()
    inputs = torch.randn(5, 3, 3, dtype=torch.float64)
    weight = encoder.weight_hh_l0

    def losses() -> dict[str, Tensor]:
        outputs = encoder(inputs)[0]
        return {"ab"[i]: (head(outputs) - i).square().mean() for i, head in enumerate(heads)}

    def objective() -> float:
        made = losses()
        rows = [torch.autograd.grad(each, weight, retain_graph=True)[0].flatten() for each in made.values()]
        cosine = torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)
        return float(sum(made.values()).detach() + 2.0 * cosine**2)

    MultiLoss(penalties=[CosReg(2.0)]).backward(losses(), shared_params=[weight])
    for index in [(0, 0), (3, 2), (7, 1)]:
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[index] += step
            values.append(objective())
            with torch.no_grad():
                weight[index] -= step
        assert float(weight.grad[index]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("read", READS)
def test_batch_norm(read: str, training: bool) -> None:
    """Statistics move once per step and only in train mode; the gradients are those of the same forward."""
    parts, plain = new_parts().train(training), new_parts().train(training)
    features, losses = forward(parts, data())
    result = MultiLoss(MGDA(), read=read).backward(losses, features=features)
    features, losses = forward(plain, data())
    by_hand(plain, features, losses, [float(weight) for weight in result.weights.values()])
    assert_same(gradients(parts), gradients(plain), rtol=1e-9, atol=1e-12)
    assert_identical(list(parts.buffers()), list(plain.buffers()))
    assert int(parts.encoder[1].num_batches_tracked) == int(training)


@pytest.mark.parametrize("how", [PLAIN, NOT_REENTRANT])
def test_layers_that_losses_share_after_the_features(how: str) -> None:
    """One backward cannot tell them apart; the shared layer gets the plain sum."""
    parts, plain = new_parts(neck=True), new_parts(neck=True)
    features, losses = forward(parts, data(), how, how)
    result = MultiLoss(MGDA()).backward(losses, features=features)
    assert result.path == "per_loss"
    features, losses = forward(plain, data())
    by_hand(plain, features, losses, [float(weight) for weight in result.weights.values()])
    assert_same(gradients(parts), gradients(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("at", ["features", "both"])
@pytest.mark.parametrize("make", [MGDA, GradNorm])
def test_retain_grad_on_the_features_shows_what_went_on(make: Callable[..., Any], at: str, read: str) -> None:
    """The merged gradient, whatever was read before it."""
    parts, plain = new_parts(), new_parts()
    features, losses = forward(parts, data())
    features.retain_grad()
    place = {"shared_params": list(parts.encoder[3].parameters())} if at == "both" else {}
    result = MultiLoss(make(), read=read).backward(losses, features=features, **place)
    twin, losses = forward(plain, data())
    rows = [torch.autograd.grad(loss, twin, retain_graph=True)[0] for loss in losses.values()]
    merged = sum(float(weight) * row for weight, row in zip(result.weights.values(), rows, strict=True))
    torch.testing.assert_close(features.grad, merged, rtol=1e-9, atol=1e-12)
    by_hand(plain, twin, losses, [float(weight) for weight in result.weights.values()])
    assert_same(gradients(parts), gradients(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("read", READS)
def test_users_hooks_on_the_features_act_once(read: str) -> None:
    """One that was there before sees the merged gradient, once; none of ours is left afterwards."""
    parts, plain = new_parts(), new_parts()
    features, losses = forward(parts, data())
    seen: list[Tensor] = []
    features.register_hook(lambda grad: seen.append(grad))
    result = MultiLoss(MGDA(), read=read).backward(losses, features=features)
    assert len(seen) == 1
    assert len(features._backward_hooks) == 1
    twin, losses = forward(plain, data())
    rows = [torch.autograd.grad(loss, twin, retain_graph=True)[0] for loss in losses.values()]
    merged = sum(float(weight) * row for weight, row in zip(result.weights.values(), rows, strict=True))
    torch.testing.assert_close(seen[0], merged, rtol=1e-9, atol=1e-12)
    by_hand(plain, twin, losses, [float(weight) for weight in result.weights.values()])
    assert_same(gradients(parts), gradients(plain), rtol=1e-9, atol=1e-12)


def test_hooks_on_parameters_and_modules_see_one_backward() -> None:
    """Picking up gradients adds no pass: everyone's hooks fire once."""
    parts = new_parts()
    fired = {"parameter": 0, "module": 0, "accumulated": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            fired[name] += 1

        return hook

    parts.heads[0][0].weight.register_hook(count("parameter"))
    parts.heads[0].register_full_backward_hook(count("module"))
    parts.encoder[0].weight.register_post_accumulate_grad_hook(count("accumulated"))
    features, losses = forward(parts, data())
    assert MultiLoss(MGDA()).backward(losses, features=features).path == "one_backward"
    assert fired == {"parameter": 1, "module": 1, "accumulated": 1}


def test_two_backwards_of_one_graph() -> None:
    """Losses read twice need retain_graph, as in torch: the second backward says so."""
    parts = new_parts()
    features, losses = forward(parts, data())
    multi = MultiLoss(MGDA())
    multi.backward(losses, features=features)
    with pytest.raises(RuntimeError, match="second time"):
        multi.backward(losses, features=features)
