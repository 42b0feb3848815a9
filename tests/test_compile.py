"""torch.compile of encoder and heads one by one; the whole model in one graph is refused with the way out.

Every method with compiled modules is in tests/properties; here is what depends on how things are compiled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch
import torch._inductor.config as inductor
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.penalties import CosReg, GradientPenalty
from manyloss.weighting import MGDA, GradNorm
from tests.problems import assert_same

FAST = "aot_eager"
# The compiler's own: it looks at .grad of what it traces, and uses what it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(2)
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.encoder(inputs)
        return features, [head(features) for head in self.heads]


def new_model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model()


def losses_of(outputs: list[Tensor]) -> dict[str, Tensor]:
    return {"ab"[i]: (output - 1.5 * (-1.0) ** i).square().mean() for i, output in enumerate(outputs)}


def inputs(step: int = 0) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(step))


def in_parts(model: Model, backend: str, encoder: bool = True, heads: bool = True) -> Callable[[Tensor], Any]:
    encode = torch.compile(model.encoder, backend=backend) if encoder else model.encoder
    each = [torch.compile(head, backend=backend) if heads else head for head in model.heads]

    def forward(given: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = encode(given)
        return features, [head(features) for head in each]

    return forward


def train(
    model: Model, forward: Callable[[Tensor], Any], multi: MultiLoss, at: str = "features", steps: int = 3
) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        features, outputs = forward(inputs(step))
        place = {"shared_params": list(model.encoder[2].parameters())} if at == "both" else {}
        multi.backward(losses_of(outputs), features=features, **place)
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def same_as_eager(make: Callable[[], MultiLoss], at: str = "features", **parts: Any) -> None:
    model, eager = new_model(), new_model()
    actual = train(model, in_parts(model, **parts), make(), at)
    assert_same(actual, train(eager, eager, make(), at), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("encoder", "heads"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("at", ["features", "both"])
@pytest.mark.parametrize("make", [MGDA, GradNorm])
def test_a_tap_needs_no_setting(make: Callable[..., Any], at: str, encoder: bool, heads: bool) -> None:
    """Compiled modules give their buffers away by default; one backward does not ask for them twice."""
    if at == "both" and encoder and make is GradNorm:
        with functorch.patch(
            donated_buffer=False
        ):  # W is behind the compiled encoder: it is passed T + 1 times
            same_as_eager(lambda: MultiLoss(make()), at, backend=FAST, encoder=encoder, heads=heads)
        return
    same_as_eager(
        lambda: MultiLoss(make(), read="one_backward"), at, backend=FAST, encoder=encoder, heads=heads
    )


@pytest.mark.parametrize("make", [MGDA, GradNorm])
def test_the_hook_path_with_buffers_kept(make: Callable[..., Any]) -> None:
    with functorch.patch(donated_buffer=False):
        for at in ("features", "both"):
            same_as_eager(lambda: MultiLoss(make(), read="per_loss"), at, backend=FAST)


@pytest.mark.parametrize("make", [lambda: CosReg(0.5), lambda: GradientPenalty(0.1)])
def test_penalties_at_the_features_of_a_compiled_encoder(make: Callable[..., Any]) -> None:
    same_as_eager(lambda: MultiLoss(MGDA(), penalties=[make()]), backend=FAST, heads=False)


@pytest.mark.parametrize(("heads", "at"), [(True, "features"), (True, "both"), (False, "both")])
def test_penalties_through_compiled_modules_are_refused(heads: bool, at: str) -> None:
    model = new_model()
    with pytest.raises(NotImplementedError, match=r"CosReg needs a double backward.*uncompiled"):
        train(model, in_parts(model, FAST, heads=heads), MultiLoss(penalties=[CosReg()]), at)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "make",
    [lambda: MultiLoss(MGDA()), lambda: MultiLoss(GradNorm()), lambda: MultiLoss(penalties=[CosReg()])],
    ids=["MGDA", "GradNorm", "CosReg"],
)
def test_the_whole_model_in_one_graph_hides_the_features(make: Callable[[], MultiLoss]) -> None:
    model = new_model()
    with pytest.raises(
        ValueError, match=r"'a' reaches none of the features.*compile the encoder and the heads"
    ):
        train(model, torch.compile(model, backend=FAST), make())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_graph_at_shared_params() -> None:
    """There the whole model may be compiled: nothing has to be seen inside it."""
    written = []
    for compiled in (True, False):
        model = new_model()
        with functorch.patch(donated_buffer=False):
            forward = torch.compile(model, backend=FAST) if compiled else model
            _, outputs = forward(inputs())
            MultiLoss(MGDA()).backward(losses_of(outputs), shared_params=model.encoder[2].parameters())
        written.append([parameter.grad for parameter in model.parameters()])
    assert_same(written[0], written[1], rtol=1e-5, atol=1e-6)


def test_autocast_and_a_scaler_through_compiled_parts() -> None:
    written = []
    for compiled in (True, False):
        model = new_model()
        forward = in_parts(model, FAST) if compiled else model
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features, outputs = forward(inputs())
        result = MultiLoss(MGDA()).backward(
            losses_of([output.float() for output in outputs]), features=features, grad_scaler=scaler
        )
        assert result.path == "one_backward"
        written.append([parameter.grad / 2.0**8 for parameter in model.parameters()])
    assert_same(written[0], written[1], rtol=3e-2, atol=3e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler that users get: taps as it is, a second pass is refused, or right as the error says."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    same_as_eager(lambda: MultiLoss(MGDA(), read="one_backward"), backend="inductor")
    for refused, at in [(MultiLoss(MGDA(), read="per_loss"), "features"), (MultiLoss(GradNorm()), "both")]:
        torch._dynamo.reset()
        model = new_model()
        with pytest.raises(RuntimeError, match=r"donated_buffer = False and .*fx_graph_cache = False"):
            train(model, in_parts(model, "inductor"), refused, at)
        assert all(parameter.grad is None for parameter in model.parameters())
    torch._dynamo.reset()
    # The cache holds kernels now that overwrite their buffers, and does not know the setting.
    with functorch.patch(donated_buffer=False), inductor.patch(fx_graph_cache=False):
        for at in ("features", "both"):
            same_as_eager(lambda: MultiLoss(GradNorm(), read="per_loss"), at, backend="inductor")
