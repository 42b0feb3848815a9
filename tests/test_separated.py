"""Losses on separate rows of the batch: their gradients at the features are not taken for evidence."""

import re

import pytest
import torch
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.diagnostics import ConflictRecorder
from manyloss.errors import BatchSeparatedError
from manyloss.weighting import GradNorm, PCGrad
from tests.properties.methods import MethodCase, methods


class Domains:
    """Two domains, one loss each, through one encoder; their gradients conflict at the encoder's weights."""

    def __init__(self, labelled: tuple[int, int, int] = (6, 6, 0)) -> None:
        torch.manual_seed(0)
        only_a, only_b, both = labelled
        self.encoder = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh()).double()
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2)).double()
        self.inputs = torch.randn(only_a + only_b + both, 4, dtype=torch.float64)
        self.rows_a = [*range(only_a), *range(only_a + only_b, only_a + only_b + both)]
        self.rows_b = [*range(only_a, only_a + only_b + both)]

    def losses(self, za: Tensor, zb: Tensor) -> dict[str, Tensor]:
        return {
            "loss_0": self.heads[0](za).square().mean(),
            "loss_1": (self.heads[1](zb) + 3.0).square().mean(),
        }

    def one_tensor(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Partial labels: every row has the labels of some losses."""
        z = self.encoder(self.inputs)
        return z, self.losses(z[self.rows_a], z[self.rows_b])

    def two_tensors(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """One batch per task."""
        za, zb = self.encoder(self.inputs[self.rows_a]), self.encoder(self.inputs[self.rows_b])
        return [za, zb], self.losses(za, zb)

    def gradients(self) -> list[Tensor | None]:
        return [p.grad for p in [*self.encoder.parameters(), *self.heads.parameters()]]


def given(domains: Domains, how: str) -> tuple[Tensor | list[Tensor], dict[str, Tensor]]:
    return domains.one_tensor() if how == "rows" else domains.two_tensors()


both_ways = pytest.mark.parametrize("how", ["rows", "tensors"])


@both_ways
@methods(lambda case: case.weighs_gradients and case.cls.needs.gramian)
def test_a_method_that_compares_gradients_refuses_with_two_ways_out(case: MethodCase, how: str) -> None:
    domains = Domains()
    features, losses = given(domains, how)
    with pytest.raises(BatchSeparatedError, match="'loss_0', 'loss_1' come from separate rows") as refused:
        case.multi(2).backward(losses, features=features)
    assert domains.gradients() == [None] * len(domains.gradients())
    text = str(refused.value)
    assert "shared_params=" in text
    # Both ways out work.
    for keywords, place in [
        ({}, {"shared_params": domains.encoder[2]}),
        ({"measure_at": "virtual_layer"}, {}),
    ]:
        features, losses = given(domains, how)
        result = case.multi(2, **keywords).backward(losses, features=features, **place)
        assert result.measured_at == ("shared_params" if place else "virtual_layer")
        assert bool(torch.isfinite(result.cosines).all())
    assert re.search(r'MultiLoss\(\.\.\., measure_at="virtual_layer"\)', text)


@both_ways
def test_measured_at_the_encoder_the_conflict_is_seen(how: str) -> None:
    domains = Domains()
    features, losses = given(domains, how)
    rows = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, domains.encoder.parameters(), retain_graph=True)]
        )
        for loss in losses.values()
    ]
    expected = torch.cosine_similarity(*rows, dim=0)
    result = MultiLoss(PCGrad(seed=0)).backward(losses, features=features, shared_params=domains.encoder)
    torch.testing.assert_close(result.cosines[0, 1], expected)
    assert abs(float(expected)) > 0.2


@both_ways
def test_the_virtual_layer_is_the_batch_sum_of_sign_times_gradient(how: str) -> None:
    """GradDrop 2020, eq. 3: one multiplicative weight per feature, shared by the domains."""
    domains = Domains()
    features, losses = given(domains, how)
    parts = [features] if isinstance(features, Tensor) else features
    rows = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, parts, retain_graph=True, allow_unused=True)
        rows.append(
            sum((g * z.sign()).sum(0) for g, z in zip(found, parts, strict=True) if g is not None).detach()
        )
    result = MultiLoss(PCGrad(seed=0), measure_at="virtual_layer").backward(losses, features=features)
    stacked = torch.stack(rows)
    torch.testing.assert_close(result.gramian, stacked @ stacked.T)


@both_ways
def test_nothing_is_reported_where_nothing_is_compared(how: str) -> None:
    """GradNorm needs norms alone; a Gramian that someone asks for has no entry between the two."""
    domains = Domains()
    features, losses = given(domains, how)
    result = MultiLoss(GradNorm()).backward(losses, features=features, measure=True)
    for table in (result.gramian, result.cosines):
        assert bool(torch.isnan(table[0, 1]))
        assert bool(torch.isfinite(table.diagonal()).all())
    assert set(result.norms) == {"loss_0", "loss_1"}


@pytest.mark.parametrize(("common", "separated"), [(0, True), (1, True), (4, False), (20, False)])
def test_hardly_any_common_rows_are_none(common: int, separated: bool) -> None:
    domains = Domains((40 - common, 40 - common, common))
    z, losses = domains.one_tensor()
    multi = MultiLoss(PCGrad(seed=0))
    if separated:
        with pytest.raises(BatchSeparatedError):
            multi.backward(losses, features=z)
    else:
        assert bool(torch.isfinite(multi.backward(losses, features=z).cosines).all())


def test_it_is_noticed_in_any_step() -> None:
    """The first batch is shared, a later one is not."""
    multi = MultiLoss(PCGrad(seed=0))
    for step in range(4):
        domains = Domains((0, 0, 8) if step < 3 else (4, 4, 0))
        z, losses = domains.one_tensor()
        if step < 3:
            multi.backward(losses, features=z)
        else:
            with pytest.raises(BatchSeparatedError):
                multi.backward(losses, features=z)


def test_an_aggregator_with_a_tensor_per_loss_has_nothing_to_merge() -> None:
    domains = Domains()
    features, losses = domains.two_tensors()
    with pytest.raises(
        BatchSeparatedError, match=r"GradDrop merges.*each of the 2 tensors belongs to one loss"
    ):
        MultiLoss(aggregator=GradDrop(seed=0)).backward(losses, features=features)
    assert domains.gradients() == [None] * len(domains.gradients())
    z, losses = domains.one_tensor()  # the way out: one batch through the encoder
    MultiLoss(aggregator=GradDrop(seed=0)).backward(losses, features=z)


@both_ways
def test_the_recorder_and_its_diagnosis_take_no_cosine(how: str) -> None:
    domains, multi = Domains(), MultiLoss()
    with ConflictRecorder(multi, every=1) as recorder:
        for _ in range(12):
            features, losses = given(domains, how)
            multi.backward(losses, features=features)
    assert all(
        record["cosines"] == {} and record["separated"] == ["loss_0|loss_1"] for record in recorder.records
    )
    diagnosis = recorder.diagnose()
    assert diagnosis.verdict == "unclear"
    assert "do not conflict" not in str(diagnosis)
    assert "shared_params=" in diagnosis.advice
    with ConflictRecorder(multi, every=1) as recorder:
        for _ in range(12):
            features, losses = given(domains, how)
            multi.backward(losses, features=features, shared_params=domains.encoder)
    assert recorder.diagnose().verdict != "unclear"
