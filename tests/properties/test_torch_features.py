"""Every method under autocast, in other dtypes, with compiled or checkpointed modules, RNNs, in eval mode."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manyloss.gradients import read
from tests.problems import (
    Given,
    Maps,
    Network,
    Pyramid,
    Recurrent,
    Wrapped,
    assert_identical,
    assert_same,
    names,
)
from tests.properties.methods import MethodCase, every_method, flat, methods

WHERE = ["usual", "shared_params"]
# Dynamo looks at .grad of tensors that are no leaves, and torch warns about its own doing.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def finite(gradients: list[Tensor | None]) -> None:
    for gradient in gradients:
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [Network, Maps, Pyramid], ids=lambda layout: layout.__name__)
@every_method
def test_dtypes(case: MethodCase, layout: type[Network], dtype: torch.dtype, where: str) -> None:
    if layout is Pyramid and case.measures_at_shared_params:
        where = "features"
    network, twin = layout(dtype=dtype), layout()
    multi, reference = case.multi(), case.multi()
    for step in range(2):
        actual, result = case.step(multi, network, step, where)
        expected, _ = case.step(reference, twin, step, where)
        for gradient, exact, param in zip(actual, expected, network.parameters(), strict=True):
            if exact is None:
                assert gradient is None
                continue
            assert gradient.dtype == param.dtype == dtype
            assert bool(torch.isfinite(gradient).all())
            if dtype == torch.float32 and case.name != "GradDrop":
                torch.testing.assert_close(gradient.double(), exact, rtol=2e-3, atol=2e-4)
        assert all(value.dim() == 0 for value in result.losses.values())


class Cast(Network):
    """The forward runs under autocast; backward is outside of it, as torch advises."""

    def __init__(self, count: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0):
        super().__init__(count, dtype, seed)

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5))
        return encoder, nn.ModuleList(
            nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 1)) for _ in range(self.count)
        )

    half = torch.bfloat16

    def forward(self, step: int = 0) -> tuple[list[Tensor], dict[str, Tensor]]:
        with torch.autocast("cpu", dtype=self.half):
            return super().forward(step)


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("where", WHERE)
@every_method
def test_autocast(case: MethodCase, where: str, inside: bool) -> None:
    network = Cast()
    multi = case.multi()
    for step in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            gradients, result = case.step(multi, network, step, where)
        finite(gradients)
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        if result.gramian is not None:
            assert result.gramian.dtype in (torch.float32, torch.float64)


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_float16_with_a_scaler_that_starts_too_high(case: MethodCase, where: str) -> None:
    """The first steps overflow, are skipped and leave the state alone; then training goes on."""
    network, multi = Cast(), case.multi()
    network.half = torch.float16
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=1000)
    moved = 0
    for step in range(14):
        before = [param.detach().clone() for param in network.parameters()]
        state = flat(multi.state_dict())
        _, result = case.step(multi, network, step, where, grad_scaler=scaler)
        if result.skipped:
            assert flat(multi.state_dict()) == state
        scaler.step(optimizer)
        scaler.update()
        changed = any(
            not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)
        )
        assert not (result.skipped and changed)
        moved += changed
    assert moved >= 3
    assert all(bool(torch.isfinite(param).all()) for param in network.parameters())


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "GradScaler"])
@methods(lambda case: case.name not in {"GradDrop", "PCGrad", "IterativePCGrad", "MGDA"})
def test_autocast_gradients_are_near_those_in_full_precision(case: MethodCase, scaled: bool) -> None:
    """For methods in which no decision of sign may flip by rounding."""
    cast, full = Cast(), Cast()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if scaled else None
    actual, _ = case.step(case.multi(), cast, grad_scaler=scaler)
    full.zero_grad()
    features, losses = Network.forward(full)
    case.multi().backward(losses, **case.place(full, features))
    for gradient, exact in zip(actual, full.gradients(), strict=True):
        gradient = gradient / (2.0**10 if scaled else 1.0)
        assert float((gradient - exact).norm()) <= 0.15 * float(exact.norm()) + 0.02


class InEval(Network):
    """Dropout and batch norm in the encoder, batch norm in the heads, all in eval mode."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        encoder = nn.Sequential(
            nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), nn.Tanh(), nn.Linear(7, 5)
        )
        heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)) for _ in range(self.count))
        return encoder.eval(), heads.eval()


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_eval_mode_is_kept(case: MethodCase, where: str) -> None:
    network, multi = InEval(), case.multi()
    buffers = [buffer.clone() for buffer in network.encoder.buffers()]
    gradients, _ = case.step(multi, network, where=where)
    finite(gradients)
    assert not any(module.training for module in network.encoder.modules())
    assert_identical(list(network.encoder.buffers()), buffers)


@pytest.mark.parametrize("training", [True, False])
@every_method
def test_a_method_does_not_care_for_train_or_eval(case: MethodCase, training: bool) -> None:
    network, twin = Network(), Network()
    multi, other = case.multi().train(training), case.multi()
    for step in range(2):
        assert_identical(case.step(multi, network, step)[0], case.step(other, twin, step)[0])


@every_method
def test_batch_norm_runs_once_per_step(case: MethodCase) -> None:
    network = Maps()
    case.step(case.multi(), network)
    assert int(network.encoder[1].num_batches_tracked) == 1


class Lstm(Recurrent):
    """An LSTM whose last state, a way around the features, is read by one of the heads."""

    def build(self) -> tuple[nn.Module, nn.ModuleList]:
        return nn.LSTM(3, 4, batch_first=True), nn.ModuleList(nn.Linear(4, 1) for _ in range(self.count))


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_lstm_encoder(case: MethodCase, where: str) -> None:
    network, multi = Lstm(), case.multi()
    for step in range(2):
        finite(case.step(multi, network, step, where)[0])


# ---------------------------------------------------------------- checkpointed and compiled modules


def reentrant(module: nn.Module, given: Tensor) -> Tensor:
    return checkpoint(module, given, use_reentrant=True)


def non_reentrant(module: nn.Module, given: Tensor) -> Tensor:
    return checkpoint(module, given, use_reentrant=False)


def direct(module: nn.Module, given: Tensor) -> Tensor:
    return module(given)


class Checkpointed(Wrapped):
    """Inputs require grad, or a reentrant checkpoint would drop the encoder's gradient."""

    def inputs(self, step: int) -> Tensor:
        return super().inputs(step).requires_grad_(True)


def same_as_direct(
    case: MethodCase,
    network: Network,
    where: str = "usual",
    tolerance: float = 1e-9,
    twin: Network | None = None,
    **keywords: object,
) -> None:
    """Two steps give what the same network without wrapping gives."""
    twin = Network(dtype=network.dtype) if twin is None else twin
    multi, other = case.multi(**keywords), case.multi()
    for step in range(2):
        actual, _ = case.step(multi, network, step, where)
        expected, _ = case.step(other, twin, step, where)
        assert_same(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_checkpoints_that_are_not_reentrant(case: MethodCase, where: str) -> None:
    same_as_direct(case, Checkpointed(non_reentrant, non_reentrant), where)


@methods(lambda case: not case.measures_at_shared_params)
def test_reentrant_checkpoints_at_the_features(case: MethodCase) -> None:
    same_as_direct(case, Checkpointed(reentrant, reentrant))


@methods(lambda case: case.reads_gradients)
def test_reentrant_checkpoints_before_shared_params_are_refused(case: MethodCase) -> None:
    where = "usual" if case.measures_at_shared_params else "shared_params"
    network, multi = Checkpointed(reentrant, reentrant), case.multi()
    features, losses = network.forward()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        multi.backward(losses, **case.place(network, features, where))
    assert network.gradients() == [None] * len(network.parameters())


def compile_parts(network: Network, heads_too: bool) -> Network:
    """The network with its encoder, and perhaps its heads, compiled one by one."""
    encoder = torch.compile(network.encoder, backend="aot_eager")
    heads = [torch.compile(head, backend="aot_eager") if heads_too else head for head in network.heads]
    network.encode = lambda inputs: [encoder(inputs)]
    network.outputs = lambda features: [head(features[0]) for head in heads]
    return network


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[str, Network]]:
    """Compiled modules are kept for the whole file: a compilation costs seconds, a call nothing."""
    import torch._functorch.config as functorch

    torch._dynamo.reset()
    with functorch.patch(donated_buffer=False):
        kept = {"both": compile_parts(Network(), True), "encoder": compile_parts(Network(), False)}
        for network in kept.values():
            network.forward()
        yield kept
    torch._dynamo.reset()


@pytest.mark.parametrize("where", WHERE)
@methods(lambda case: case.family != "penalties")
def test_compiled_encoder_and_heads(case: MethodCase, where: str, compiled) -> None:
    same_as_direct(case, compiled["both"], where, tolerance=2e-7)


@methods(lambda case: not case.measures_at_shared_params)
def test_compiled_encoder_and_heads_on_the_hook_path(case: MethodCase, compiled) -> None:
    same_as_direct(case, compiled["both"], tolerance=2e-7, read="per_loss")


def test_what_forbids_a_second_pass_is_found_in_the_graph() -> None:
    """A reentrant checkpoint is named with its way out; any other failure stays what it is."""
    x = torch.randn(3, requires_grad=True)
    hidden = checkpoint(torch.tanh, x, use_reentrant=True).sum()
    seed = torch.ones(())
    with pytest.raises(RuntimeError, match=r"'left' cannot be read apart.*use_reentrant=False"):
        read([hidden], "left", [x], [seed])
    used = x.square().sum()
    used.backward()
    with pytest.raises(RuntimeError, match="second time"):
        read([used], "left", [x], [seed])


@methods(lambda case: case.family == "penalties")
def test_penalty_at_the_features_of_a_compiled_encoder(case: MethodCase, compiled) -> None:
    same_as_direct(case, compiled["encoder"], "features", tolerance=2e-7)


@pytest.mark.parametrize(("parts", "where"), [("both", "features"), ("encoder", "shared_params")])
@methods(lambda case: case.family == "penalties")
def test_penalty_through_a_compiled_module_is_refused(
    case: MethodCase, parts: str, where: str, compiled
) -> None:
    network, multi = compiled[parts], case.multi()
    network.zero_grad()
    features, losses = network.forward()
    with pytest.raises(NotImplementedError, match=r"double backward.*uncompiled"):
        multi.backward(losses, **case.place(network, features, where))
    assert network.gradients() == [None] * len(network.parameters())


# ---------------------------------------------------------------- everyday use


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_gradients_accumulate(case: MethodCase, where: str) -> None:
    """Two backwards without zero_grad give the sum of what each of them writes."""
    network, multi = Network(), case.multi()
    written = [case.step(multi, network, step, where)[0] for step in range(2)]
    twin, other = Network(), case.multi()
    for step in range(2):
        features, losses = twin.forward(step)
        other.backward(losses, **case.place(twin, features, where))
    assert_same(
        twin.gradients(),
        [first + second for first, second in zip(*written, strict=True)],
        rtol=1e-12,
        atol=1e-15,
    )


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_parameters_that_get_no_gradient(case: MethodCase, where: str) -> None:
    """Frozen and unused parameters keep grad None; the others do not notice."""
    network, twin = Network(), Network()
    unused = nn.Linear(2, 2)
    network.heads.append(unused)
    network.outputs = lambda features: [head(features[0]) for head in network.heads[:3]]
    for part in (network, twin):
        part.encoder[0].bias.requires_grad_(False)
        part.heads[1].bias.requires_grad_(False)
    actual, _ = case.step(case.multi(), network, where=where)
    expected, _ = case.step(case.multi(), twin, where=where)
    assert network.encoder[0].bias.grad is None
    assert network.heads[1].bias.grad is None
    assert unused.weight.grad is None
    assert_same(actual[: len(expected)], expected)


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_shared_params_that_a_loss_does_not_reach(case: MethodCase, where: str) -> None:
    """A frozen encoder but for its last layer, and a bias that no loss depends on."""
    network = Network()
    for param in network.encoder[0].parameters():
        param.requires_grad_(False)
    gradients, _ = case.step(case.multi(), network, where=where)
    finite(gradients[2:])
    assert gradients[:2] == [None, None]


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_losses_as_a_list_or_a_tensor(case: MethodCase, where: str) -> None:
    """A list names its losses by position; a 1-D tensor of losses is the same thing stacked."""
    written = []
    for pack in (list, lambda losses: torch.stack(list(losses))):
        network = Network()
        by_position = {k: "0" if v == "loss_0" else v for k, v in case.arguments(3).items()}
        if case.name == "Static":
            by_position["weights"] = [1.0, 1.5, 2.0]
        multi = case.wrap(case.cls(**by_position))
        for step in range(2):
            network.zero_grad()
            features, losses = network.forward(step)
            result = multi.backward(pack(losses.values()), **case.place(network, features, where))
        assert len(result.losses) == 3
        written.append(network.gradients())
    assert_same(written[1], written[0], rtol=1e-10, atol=1e-13)


@methods(lambda case: not case.measures_at_shared_params)
def test_features_that_are_a_leaf(case: MethodCase) -> None:
    rows = torch.tensor([[[1.0, -2.0, 0.3]], [[-3.0, 1.0, 0.2]]], dtype=torch.float64)
    inner, leaf = Given(rows), Given(rows)
    expected, _ = inner.at_features(case.multi(2))
    case.multi(2).backward(leaf.losses(leaf.point), features=leaf.point)
    assert_same([leaf.point.grad], [expected])


@methods(lambda case: not case.measures_at_shared_params)
def test_a_users_hook_on_the_features_fires_once(case: MethodCase) -> None:
    network = Network()
    features, losses = network.forward()
    seen = []
    features[0].register_hook(lambda gradient: seen.append(gradient.clone()))
    case.multi().backward(losses, features=features[0])
    assert len(seen) >= 1
    twin = Network()
    expected, _ = case.step(case.multi(), twin)
    assert_same(network.gradients(), expected)


@pytest.mark.filterwarnings("ignore:A parameter .* is reached through the features and around them")
@methods(lambda case: not case.measures_at_shared_params)
def test_ways_around_the_features_keep_the_plain_sum(case: MethodCase) -> None:
    """Weight decay inside a loss, and a head that reads an earlier activation."""
    network, twin = Network(), Network()
    _, losses = network.forward()
    features = network.encode(network.inputs(0))
    losses = {
        name: (head(features[0]) - 1.0).square().mean() + 0.3 * network.encoder[0].weight.square().sum()
        for name, head in zip(names(3), network.heads, strict=True)
    }
    network.zero_grad()
    multi = case.multi()
    result = multi.backward(losses, features=features[0])
    features = twin.encode(twin.inputs(0))
    losses = {
        name: (head(features[0]) - 1.0).square().mean()
        for name, head in zip(names(3), twin.heads, strict=True)
    }
    case.multi().backward(losses, features=features[0])
    expected = twin.gradients()
    expected[0] = expected[0] + 3 * 0.6 * twin.encoder[0].weight.detach()
    assert_same(network.gradients(), expected)
    assert result.losses


# ---------------------------------------------------------------- absent losses


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_an_absent_loss_from_the_start(case: MethodCase, where: str) -> None:
    """Stateless methods: as if the loss were not there. It is in none of the results."""
    network, multi = Network(), case.multi()
    for absent in ("loss_0", "loss_2"):
        network.zero_grad()
        features, losses = network.forward()
        losses[absent] = None
        result = multi.backward(losses, **case.place(network, features, where))
        assert absent not in result.losses
        assert result.weights is None or absent not in result.weights
        assert result.norms is None or absent not in result.norms
        head = network.heads[int(absent[-1])]
        assert head.weight.grad is None


@pytest.mark.parametrize("where", WHERE)
@methods(
    lambda case: (
        case.name in {"Equal", "Sum", "MGDA", "PCGrad", "CAGrad", "GradDrop", "CosReg", "IterativePCGrad"}
    )
)
def test_an_absent_loss_leaves_the_step_of_the_others(case: MethodCase, where: str) -> None:
    network, twin = Network(3), Network(3)
    features, losses = network.forward()
    losses["loss_1"] = None
    case.multi(3).backward(losses, **case.place(network, features, where))
    features, losses = twin.forward()
    del losses["loss_1"]
    case.multi(2).backward(losses, **case.place(twin, features, where))
    assert_same(network.gradients(), twin.gradients())


@pytest.mark.parametrize("where", WHERE)
@every_method
def test_losses_that_come_and_go(case: MethodCase, where: str) -> None:
    """Ten steps with one, two or all three losses, the first ones missing some."""
    network, multi = Network(), case.multi()
    patterns = ["110", "001", "111", "011", "100", "111", "101", "010", "111", "110"]
    for step, pattern in enumerate(patterns):
        network.zero_grad()
        features, losses = network.forward(step)
        given = {
            name: loss if present == "1" else None
            for (name, loss), present in zip(losses.items(), pattern, strict=True)
        }
        multi.backward(given, **case.place(network, features, where))
        for gradient in network.gradients():
            assert gradient is None or bool(torch.isfinite(gradient).all())
        if step % 3 == 2:
            multi.end_epoch()


@methods(lambda case: case.reads_gradients and not case.needs_features)
def test_a_parameter_that_is_one_number_is_a_vector_of_one(case):
    """PINNs learn a coefficient of their equation, shape (): it counts as one entry like any other."""

    def steps(shape, others):
        multi, written = case.multi(2), []
        number = torch.full(shape, 0.7, dtype=torch.float64, requires_grad=True)
        matrix = torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)
        for step in range(2):
            number.grad = matrix.grad = None
            seen = number.sum() * (step + 1) + (matrix.sum() if others else 0.0)
            losses = {"loss_0": (seen - 2).square() + 0.1, "loss_1": (3 * seen + 1).square() + 0.1}
            multi.backward(losses, shared_params=[number, matrix] if others else [number])
            written += [number.grad.reshape(1), *([matrix.grad] if others else [])]
        return written

    for others in (False, True):
        assert_same(steps((), others), steps((1,), others))
