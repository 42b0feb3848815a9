"""TorchJD's methods in our step give what TorchJD's own mtl_backward, or a scalarizer's backward, gives."""

import io

import pytest
import torch
from torch import nn

from manyloss import LossGradients, MultiLoss
from manyloss.aggregation import Aggregator
from manyloss.distributed import Ranks
from manyloss.errors import BatchSeparatedError
from manyloss.interop import from_torchjd
from manyloss.weighting import FAMO, GradientWeighting
from tests.problems import Network, Pyramid, assert_identical, assert_same

torchjd = pytest.importorskip("torchjd.aggregation")
scalarization = pytest.importorskip("torchjd.scalarization")
autojac = pytest.importorskip("torchjd.autojac")
# NashMTL's solver complains about the form of TorchJD's own problem.
pytestmark = pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")

# name -> (a new object, the family it becomes)
METHODS = {
    "AlignedMTL": (lambda: torchjd.AlignedMTL(), GradientWeighting),
    "CAGrad": (lambda: torchjd.CAGrad(c=0.4), GradientWeighting),
    "ConFIG": (lambda: torchjd.ConFIG(), GradientWeighting),
    "Constant": (lambda: torchjd.Constant(torch.tensor([0.2, 0.3, 0.5]).double()), GradientWeighting),
    "DualProj": (lambda: torchjd.DualProj(), GradientWeighting),
    "ExcessMTL": (lambda: torchjd.ExcessMTL(), Aggregator),
    "FairGrad": (lambda: torchjd.FairGrad(alpha=1.0), GradientWeighting),
    "GradDrop": (lambda: torchjd.GradDrop(), Aggregator),
    "GradVac": (lambda: torchjd.GradVac(), GradientWeighting),
    "IMTLG": (lambda: torchjd.IMTLG(), GradientWeighting),
    "Krum": (lambda: torchjd.Krum(n_byzantine=0), GradientWeighting),
    "MGDA": (lambda: torchjd.MGDA(), GradientWeighting),
    "Mean": (lambda: torchjd.Mean(), GradientWeighting),
    "NashMTL": (lambda: torchjd.NashMTL(n_tasks=3), GradientWeighting),
    "PCD": (lambda: torchjd.PCD(), GradientWeighting),
    "PCGrad": (lambda: torchjd.PCGrad(), GradientWeighting),
    "Random": (lambda: torchjd.Random(), GradientWeighting),
    "Sum": (lambda: torchjd.Sum(), GradientWeighting),
    "TrimmedMean": (lambda: torchjd.TrimmedMean(trim_number=1), Aggregator),
    "UPGrad": (lambda: torchjd.UPGrad(), GradientWeighting),
    "UPGradWeighting": (lambda: torchjd.UPGradWeighting(), GradientWeighting),
    "CRMOGMWeighting": (lambda: torchjd.CRMOGMWeighting(torchjd.MGDAWeighting()), GradientWeighting),
}
SCALARIZERS = {
    "COSMOS": lambda: scalarization.COSMOS(0.5, torch.tensor([0.2, 0.3, 0.5]).double()),
    "Constant": lambda: scalarization.Constant(torch.tensor([0.2, 0.3, 0.5]).double()),
    "DWA": lambda: scalarization.DWA(),
    "GeometricMean": lambda: scalarization.GeometricMean(),
    "IMTLL": lambda: scalarization.IMTLL(3),
    "Mean": lambda: scalarization.Mean(),
    "PBI": lambda: scalarization.PBI(2.0, torch.tensor([0.2, 0.3, 0.5]).double()),
    "Random": lambda: scalarization.Random(),
    "STCH": lambda: scalarization.STCH(0.3),
    "Sum": lambda: scalarization.Sum(),
    "UW": lambda: scalarization.UW(3),
}
every_scalarizer = pytest.mark.parametrize("name", SCALARIZERS)
RANDOM = {"GradDrop", "GradVac", "PCGrad", "Random"}
STATEFUL = {"CRMOGMWeighting", "ExcessMTL", "GradVac", "NashMTL", "PCD"}
every_method = pytest.mark.parametrize("name", METHODS)


def make(name: str):
    """The TorchJD object, or a skip where its own solver is not installed."""
    try:
        return METHODS[name][0]()
    except ImportError as error:
        pytest.skip(str(error))  # TorchJD says what to install


def wrapped(name: str, seed: int = 3) -> MultiLoss:
    method = from_torchjd(make(name), seed=seed)
    if isinstance(method, Aggregator):
        return MultiLoss(aggregator=method)
    return MultiLoss(weighting=method)


def seeds_of(seed: int):
    """What TorchJD's global generator is seeded with in each step."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (), generator=generator))


def matrix_form(method):
    """A weighting on the Gramian as the aggregator that mtl_backward's second half takes."""
    return method if isinstance(method, torchjd.Aggregator) else torchjd.GramianWeightedAggregator(method)


def theirs(network: Network, aggregator, step: int, seed: int) -> list:
    network.zero_grad()
    features, losses = network.forward(step)
    autojac.mtl_backward(list(losses.values()), features=features)
    torch.manual_seed(seed)
    autojac.jac_to_grad(network.encoder.parameters(), aggregator)
    return network.gradients()


def test_every_method_of_torchjd_is_in_these_lists() -> None:
    bases = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Weighting"}
    two_batches = {"MoDoWeighting", "SDMGradWeighting"}
    aggregators = {name for name in torchjd.__all__ if not name.endswith("Weighting")} - bases
    assert aggregators <= set(METHODS)
    weightings = {name for name in torchjd.__all__ if name.endswith("Weighting")} - bases - two_batches
    assert weightings <= {f"{name}Weighting" for name in METHODS} | set(METHODS)
    assert set(scalarization.__all__) - {"Scalarizer", "FAMO"} == set(SCALARIZERS)


@every_method
def test_it_becomes_the_right_family(name: str) -> None:
    assert isinstance(from_torchjd(make(name)), METHODS[name][1])


@every_method
def test_three_steps_at_shared_parameters_equal_mtl_backward(name: str) -> None:
    multi, aggregator, seeds = wrapped(name), matrix_form(make(name)), seeds_of(3)
    network = Network(3)
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if name in ("NashMTL", "FairGrad") else {}  # inexact solvers
    for step in range(3):
        expected = theirs(network, aggregator, step, next(seeds))
        network.zero_grad()
        _, losses = network.forward(step)
        multi.backward(losses, shared_params=network.encoder.parameters())
        assert_same(network.gradients(), expected, **tolerance)


@every_method
@pytest.mark.parametrize("layout", [Network, Pyramid])
def test_at_features_it_works_on_the_flattened_matrix(name: str, layout: type[Network]) -> None:
    """The reference: the joint matrix, aggregated by TorchJD, is sent back into the encoder."""
    network = layout(3)
    features, losses = network.forward()
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, features, retain_graph=True)])
        if layout is Network
        else torch.cat(
            [
                (torch.zeros_like(z) if g is None else g).flatten()
                for g, z in zip(
                    torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True),
                    features,
                    strict=True,
                )
            ]
        )
        for loss in losses.values()
    ]
    torch.manual_seed(next(seeds_of(3)))
    merged = matrix_form(make(name))(torch.stack(rows)).detach().split([z.numel() for z in features])
    expected = torch.autograd.grad(
        features,
        list(network.encoder.parameters()),
        [part.view_as(z) for part, z in zip(merged, features, strict=True)],
    )
    network.zero_grad()
    features, losses = network.forward()
    wrapped(name).backward(losses, features=features)
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if name in ("NashMTL", "FairGrad") else {}
    assert_same([param.grad for param in network.encoder.parameters()], expected, **tolerance)


@every_method
def test_heads_see_the_plain_losses(name: str) -> None:
    network = Network(3)
    features, losses = network.forward()
    sum(losses.values()).backward()
    expected = [param.grad.clone() for param in network.heads.parameters()]
    network.zero_grad()
    features, losses = network.forward()
    wrapped(name).backward(losses, features=features)
    assert_same([param.grad for param in network.heads.parameters()], expected)


@pytest.mark.parametrize("name", sorted(RANDOM | STATEFUL))
def test_a_fresh_object_continues_bit_by_bit(name: str) -> None:
    network, straight = Network(3), wrapped(name)

    def one_step(multi: MultiLoss, step: int) -> list:
        network.zero_grad()
        features, losses = network.forward(step)
        multi.backward(losses, features=features)
        return network.gradients()

    for step in range(2):
        one_step(straight, step)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    expected = [one_step(straight, step) for step in (2, 3)]
    fresh = wrapped(name, seed=99)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for step, gradients in zip((2, 3), expected, strict=True):
        assert_identical(one_step(fresh, step), gradients)


def test_the_users_random_numbers_are_left_alone() -> None:
    network, multi = Network(3), wrapped("PCGrad")
    features, losses = network.forward()
    torch.manual_seed(5)
    multi.backward(losses, features=features)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_repeated_and_very_different_rows_on_the_root_of_the_gramian() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [1e-5, 0.0, 3e-5]], dtype=torch.float64)
    method = from_torchjd(torchjd.ConFIG())
    weights = method(LossGradients.of(rows))
    torch.testing.assert_close(weights @ rows, torchjd.ConFIG()(rows), rtol=1e-6, atol=1e-12)


def test_a_weighting_of_ones_own_reads_the_gramian() -> None:
    class Longest(torchjd.Weighting):
        def forward(self, gramian):
            return (gramian.diagonal() == gramian.diagonal().max()).to(gramian.dtype)

    rows = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    assert from_torchjd(Longest())(LossGradients.of(rows)).tolist() == [0.0, 1.0]


def test_projections_say_that_their_numbers_are_coordinates() -> None:
    projecting = {"ConFIG", "DualProj", "GradVac", "PCGrad", "UPGrad", "UPGradWeighting"}
    for name in METHODS:
        method = from_torchjd(make(name))
        numbers = getattr(method, "numbers", "weights")
        assert (numbers == "projection coefficients") == (name in projecting), name


def test_parameters_stay_empty_and_the_name_shows() -> None:
    multi = wrapped("GradVac")
    assert list(multi.parameters()) == []
    assert "GradVac" in repr(multi)


@pytest.mark.parametrize("cls", ["SDMGradWeighting", "MoDoWeighting"])
def test_methods_of_two_batches_are_refused(cls: str) -> None:
    with pytest.raises(ValueError, match=f"{cls} reads products of the gradients of two independent batches"):
        from_torchjd(getattr(torchjd, cls)())


def test_a_class_or_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got the class MGDA: write from_torchjd\(MGDA\(\.\.\.\)\)"):
        from_torchjd(torchjd.MGDA)
    with pytest.raises(TypeError, match="got an object of type Linear"):
        from_torchjd(nn.Linear(2, 2))


def test_a_matrix_at_features_is_refused_on_two_ranks() -> None:
    method = from_torchjd(torchjd.TrimmedMean(trim_number=1))
    method.ranks = Ranks(None, world=2, rank=0)
    rows = torch.randn(3, 2, 4)
    with pytest.raises(
        ValueError, match=r"TrimmedMean reads the whole matrix .* 2 ranks: pass shared_params="
    ):
        method(rows, torch.randn(2, 4))
    assert method(rows.flatten(1)).shape == (8,)  # averaged gradients at shared parameters are whole


def test_a_stateful_method_needs_every_loss() -> None:
    network = Network(3)
    features, losses = network.forward()
    multi = wrapped("GradVac")
    multi.backward(losses, features=features)
    features, losses = network.forward(1)
    losses["loss_1"] = None
    with pytest.raises(ValueError, match=r"GradVac keeps state for a fixed number .* and 'loss_1' is absent"):
        multi.backward(losses, features=features)


def test_a_stateless_method_leaves_an_absent_loss_out() -> None:
    network = Network(3)
    features, losses = network.forward()
    losses["loss_1"] = None
    result = wrapped("MGDA").backward(losses, features=features)
    assert list(result.weights) == ["loss_0", "loss_2"]


def test_a_result_that_is_not_finite_names_the_method() -> None:
    class Broken(torchjd.Weighting):
        def forward(self, gramian):
            return torch.full_like(gramian.diagonal(), torch.nan)

    network = Network(2)
    features, losses = network.forward()
    with pytest.raises(ValueError, match="Broken gave a result that is not finite: weights nan, nan"):
        MultiLoss(from_torchjd(Broken())).backward(losses, features=features)


# ---------------------------------------------------------------- scalarizers


def a_step(network: Network, multi: MultiLoss, step: int) -> list:
    network.zero_grad()
    _, losses = network.forward(step)
    multi.backward(losses)
    return network.gradients()


@every_scalarizer
def test_steps_equal_the_scalarizers_own_backward(name: str) -> None:
    """Over three epochs of two steps; what it learns, it learns by the same Adam."""
    network, multi, seeds = (
        Network(3),
        MultiLoss(from_torchjd(SCALARIZERS[name](), seed=3, lr=0.1)),
        seeds_of(3),
    )
    scalarizer = SCALARIZERS[name]()
    learned = list(scalarizer.parameters())
    optimizer = torch.optim.Adam(learned, lr=0.1) if learned else None
    for step in range(6):
        network.zero_grad()
        torch.manual_seed(next(seeds))
        scalarizer(torch.stack(list(network.forward(step)[1].values()))).backward()
        expected = network.gradients()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        assert_same(a_step(network, multi, step), expected, rtol=1e-6)
        if step % 2:
            multi.end_epoch()
            if name == "DWA":
                scalarizer.step()
    assert list(multi.parameters()) == []


@pytest.mark.parametrize("name", ["DWA", "IMTLL", "Random", "UW"])
def test_a_scalarizer_continues_bit_by_bit(name: str) -> None:
    network, straight = Network(3), MultiLoss(from_torchjd(SCALARIZERS[name](), seed=3))
    for step in range(5):
        a_step(network, straight, step)
        if step in (1, 3):
            straight.end_epoch()
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    fresh = MultiLoss(from_torchjd(SCALARIZERS[name](), seed=99))
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for multi in (straight, fresh):
        multi.end_epoch()
    for step in (5, 6):
        assert_identical(a_step(network, fresh, step), a_step(network, straight, step))


@pytest.mark.parametrize("name", ["DWA", "UW"])
def test_a_skipped_step_teaches_a_scalarizer_nothing(name: str) -> None:
    network, multi = Network(3), MultiLoss(from_torchjd(SCALARIZERS[name]()))
    a_step(network, multi, 0)
    before = {key: value.clone() for key, value in multi.state_dict().items()}
    _, losses = network.forward(1)
    scaler = torch.amp.GradScaler("cpu")
    assert multi.backward({**losses, "loss_1": losses["loss_1"] * torch.inf}, grad_scaler=scaler).skipped
    assert all(torch.equal(value, before[key]) for key, value in multi.state_dict().items())


def test_an_absent_loss_and_a_loss_of_zero() -> None:
    network = Network(3)
    _, losses = network.forward()
    result = MultiLoss(from_torchjd(scalarization.Mean())).backward({**losses, "loss_1": None})
    assert {name: float(weight) for name, weight in result.weights.items()} == {"loss_0": 0.5, "loss_2": 0.5}
    multi = MultiLoss(from_torchjd(scalarization.UW(3)))
    a_step(network, multi, 0)
    with pytest.raises(ValueError, match="UW keeps state for a fixed number of losses, and 'loss_1' is abs"):
        multi.backward({**network.forward()[1], "loss_1": None})
    _, losses = network.forward()
    with pytest.raises(
        ValueError, match=r"GeometricMean gave .* not finite.* A loss of 0 or below may be out"
    ):
        MultiLoss(from_torchjd(scalarization.GeometricMean())).backward(
            {**losses, "loss_1": 0 * losses["loss_1"]}
        )


def test_famo_becomes_our_own_with_its_settings() -> None:
    theirs = scalarization.FAMO(2, torch.tensor([0.0, -1.0]), lr=0.1, weight_decay=0.5)
    ours = from_torchjd(theirs)
    assert isinstance(ours, FAMO)
    assert (ours.inner.lr, ours.weight_decay, ours.minimum) == (0.1, 0.5, [0.0, -1.0])


# ---------------------------------------------------------------- losses on separate rows


@pytest.mark.parametrize("name", ["ExcessMTL", "GradDrop", "TrimmedMean"])
def test_what_reads_entries_refuses_losses_on_separate_rows(name: str) -> None:
    encoder, heads = nn.Linear(3, 4).double(), [nn.Linear(4, 1).double() for _ in range(3)]
    x = torch.randn(9, 3, dtype=torch.float64)

    def losses() -> tuple:
        z = encoder(x)
        return z, [head(part).square().mean() for head, part in zip(heads, z.split(3), strict=True)]

    z, given = losses()
    with pytest.raises(BatchSeparatedError, match=f"TorchJD's {name} .* no entries in common. Pass shared_p"):
        wrapped(name).backward(given, features=z)
    assert encoder.weight.grad is None
    wrapped(name).backward(losses()[1], shared_params=encoder)
    assert encoder.weight.grad is not None


@pytest.mark.parametrize("name", [n for n, (_, family) in METHODS.items() if family is GradientWeighting])
def test_what_reads_inner_products_is_measured_at_the_virtual_layer(name: str) -> None:
    encoder, heads = nn.Linear(3, 4).double(), [nn.Linear(4, 1).double() for _ in range(3)]
    z = encoder(torch.randn(9, 3, dtype=torch.float64))
    losses = [(head(part) - 1).square().mean() for head, part in zip(heads, z.split(3), strict=True)]
    with pytest.raises(BatchSeparatedError, match="come from separate rows"):
        wrapped(name).backward(losses, features=z, retain_graph=True)
    multi = MultiLoss(from_torchjd(make(name)), measure_at="virtual_layer")
    assert multi.backward(losses, features=z).measured_at == "virtual_layer"


def test_a_checkpoint_of_another_method_is_refused() -> None:
    state = wrapped("GradVac").state_dict()
    with pytest.raises(ValueError, match="holds the state of GradVac, Sum, this object is PCD, Sum"):
        wrapped("PCD").load_state_dict(state)
