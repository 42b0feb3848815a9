"""Mixed precision as it is used: autocast, norm layers, a real GradScaler that skips steps, micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.penalties import CosReg, GradientPenalty
from manyloss.weighting import MGDA, GradNorm, PCGrad, Random, Uncertainty
from tests.problems import assert_identical
from tests.properties.methods import flat

DTYPES = [torch.bfloat16, torch.float16]
METHODS: dict[str, Callable[..., MultiLoss]] = {
    "MGDA": lambda **keywords: MultiLoss(MGDA(), **keywords),
    "PCGrad": lambda **keywords: MultiLoss(PCGrad(seed=3), **keywords),
    "GradNorm": lambda **keywords: MultiLoss(GradNorm(), **keywords),
    "Random, GradDrop": lambda **keywords: MultiLoss(Random(3), GradDrop(seed=3), **keywords),
    "rescaled": lambda **keywords: MultiLoss(MGDA(), rescale="sum_norm", **keywords),
}
PENALTIES: dict[str, Callable[..., MultiLoss]] = {
    "CosReg": lambda: MultiLoss(penalties=[CosReg(0.5)]),
    "MGDA, GradientPenalty": lambda: MultiLoss(MGDA(), penalties=[GradientPenalty(0.01)]),
    "Uncertainty, GradDrop, CosReg": lambda: MultiLoss(Uncertainty(), GradDrop(seed=3), [CosReg(0.5)]),
}


class Normed(nn.Module):
    """Convolutions with batch and group norm; heads with layer norm. Features [B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 6, 3), nn.GroupNorm(2, 6)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
            for _ in range(3)
        )


def new_model() -> Normed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normed()


def losses_of(model: Normed, step: int, dtype: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
    images = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(step))
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        features = model.encoder(images)
        outputs = [head(features) for head in model.heads]
    losses = [(output.float() - 1.5 * (-1.0) ** i).square().mean() for i, output in enumerate(outputs)]
    return features, {"abc"[i]: loss for i, loss in enumerate(losses)}


def spoil(kind: str, features: Tensor, losses: dict[str, Tensor]) -> None:
    if kind == "loss":
        losses["b"] = losses["b"] * float("inf")
    else:  # finite, but its slope at 0 is not
        losses["b"] = losses["b"] + (features.float() * 0.0).abs().sum().sqrt()


def trained(
    multi: MultiLoss, dtype: torch.dtype, bad: dict[int, str], at: str, clean: bool = False
) -> tuple[Normed, list[str]]:
    """Five steps; before those in `bad`, one that is spoiled and has to be skipped.

    Where `clean`, that one is left out, and only the scale falls as it would have: the rounding of float16
    depends on it.
    """
    model = new_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    paths = []
    for step in range(5):
        if clean and step in bad:
            scaler.update(scaler.get_scale() / 2)
        for spoiled in [True, False] if step in bad and not clean else [False]:
            statistics = [buffer.clone() for buffer in model.buffers()]
            features, losses = losses_of(model, step, dtype)
            if spoiled:
                spoil(bad[step], features, losses)
                before = flat(multi.state_dict())
            place = {"features": features} if at != "params" else {}
            if at != "features":
                place["shared_params"] = list(model.encoder[3].parameters())
            optimizer.zero_grad()
            result = multi.backward(losses, **place, grad_scaler=scaler)
            assert result.skipped == spoiled
            scaler.step(optimizer)
            scaler.update()
            if spoiled:
                assert flat(multi.state_dict()) == before
                for buffer, kept in zip(model.buffers(), statistics, strict=True):
                    buffer.copy_(kept)  # the forward itself has moved them
            else:
                paths.append(result.path)
    assert scaler.get_scale() == 2.0 ** (10 - len(bad))
    return model, paths


def same_without_the_bad_steps(make: Callable[[], MultiLoss], dtype: torch.dtype, at: str) -> list[str]:
    bad = {1: "gradient", 3: "loss"}
    clean_multi, multi = make(), make()
    clean, _ = trained(clean_multi, dtype, bad, at, clean=True)
    model, paths = trained(multi, dtype, bad, at)
    assert_identical(list(model.parameters()), list(clean.parameters()))
    assert flat(multi.state_dict()) == flat(clean_multi.state_dict())
    return paths


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("at", ["features", "both", "params"])
@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize("method", METHODS)
def test_skipped_steps_leave_no_trace(method: str, read: str, at: str, dtype: torch.dtype) -> None:
    paths = same_without_the_bad_steps(lambda: METHODS[method](read=read), dtype, at)
    assert set(paths) == {"one_backward" if read == "auto" and at != "params" else "per_loss"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("at", ["features", "both"])
@pytest.mark.parametrize("method", PENALTIES)
def test_skipped_steps_leave_no_trace_on_penalties(method: str, at: str, dtype: torch.dtype) -> None:
    same_without_the_bad_steps(PENALTIES[method], dtype, at)


@pytest.mark.parametrize("read", ["auto", "per_loss"])
@pytest.mark.parametrize("method", ["MGDA", "GradNorm", "rescaled"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_near_those_in_full_precision(dtype: torch.dtype, method: str, read: str) -> None:
    """Weights and the merged gradient, through norm layers."""
    cast, full = new_model(), new_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    features, losses = losses_of(cast, 0, dtype)
    assert features.dtype in (dtype, torch.float32)
    result = METHODS[method](read=read).backward(losses, features=features, grad_scaler=scaler)
    features, losses = losses_of(full, 0, None)
    exact = METHODS[method](read=read).backward(losses, features=features)
    for name, weight in exact.weights.items():
        assert abs(float(result.weights[name]) - float(weight)) <= 0.1 * abs(float(weight)) + 0.03
    for parameter, expected in zip(cast.parameters(), full.parameters(), strict=True):
        gradient = parameter.grad / 2.0**12
        assert float((gradient - expected.grad).norm()) <= 0.15 * float(expected.grad.norm()) + 0.02


@pytest.mark.parametrize("read", ["auto", "per_loss"])
def test_an_overflow_of_the_scaled_gradient_is_skipped_too(read: str) -> None:
    """The loss and its gradient are finite; float16 times the scale is not: the scale falls."""
    model, multi = new_model(), METHODS["MGDA"](read=read)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=1000)
    skipped = []
    for _ in range(30):
        start = [parameter.detach().clone() for parameter in model.parameters()]
        features, losses = losses_of(model, 0, torch.float16)
        optimizer.zero_grad()
        skipped.append(multi.backward(losses, features=features, grad_scaler=scaler).skipped)
        scaler.step(optimizer)
        scaler.update()
        if skipped[-1]:
            assert_identical(list(model.parameters()), start)
    assert skipped[0]
    assert not skipped[-1]
    assert skipped == sorted(skipped, reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_share_one_scale(method: str) -> None:
    """Two backwards, one unscale and step, with clipping in between, as torch's AMP guide has it."""
    written = []
    for enabled in (True, False):
        model, multi = new_model(), METHODS[method]()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=enabled)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for step in range(2):
            features, losses = losses_of(model, step, None)
            multi.backward(losses, features=features, grad_scaler=scaler)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        written.append(list(model.parameters()))
    for first, second in zip(*written, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("places", [1, 2], ids=["one layer", "two layers"])
def test_tiny_gradients_behind_float16_features_do_not_vanish(places: int) -> None:
    """A gradient of 1e-9 is 0 in float16, and 6e-5 once it is scaled; so is what is read behind it."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(6, 6, generator=generator).half().requires_grad_() for _ in range(2)]
    features = (torch.randn(8, 6, generator=generator).half() @ weights[0]).tanh() @ weights[1]
    losses = {"size": 1e-9 * features.float().abs().sum(), "square": 1e-9 * features.float().square().sum()}
    expected = []
    for loss in losses.values():
        grads = torch.autograd.grad(65536.0 * loss, weights[-places:], retain_graph=True)
        expected.append(float(torch.cat([g.float().flatten() for g in grads]).norm()) / 65536.0)
    assert min(expected) > 0.0
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    result = MultiLoss(GradNorm()).backward(
        losses, features=features, shared_params=weights[-places:], grad_scaler=scaler
    )
    assert result.path == "one_backward"
    assert result.norms is not None
    found = [float(norm) for norm in result.norms.values()]
    assert found == pytest.approx(expected, rel=1e-2)
