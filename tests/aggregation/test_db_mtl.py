"""DB-MTL against Algorithm 1 on vectors; with LogLoss it is the whole method."""

import numpy as np
import pytest
import torch

from manyloss import MultiLoss
from manyloss.aggregation import DBMTL
from manyloss.weighting import LogLoss
from tests.problems import Given
from tests.reference.by_norms import DBMTLOracle
from tests.weighting.rows import rows_of


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_steps_follow_the_oracle(beta: float, decay: float) -> None:
    method, oracle = DBMTL(beta, decay), DBMTLOracle(beta, decay)
    for step in range(8):
        rows = rows_of("lengths", 3, step)
        np.testing.assert_allclose(method(torch.from_numpy(rows)).numpy(), oracle.merge(rows), rtol=1e-9)


def test_with_log_losses_it_is_the_method_of_the_paper() -> None:
    rows = torch.from_numpy(rows_of("wide", 3, 0))
    oracle = DBMTLOracle(0.9, 0.5)
    multi = MultiLoss(LogLoss(), DBMTL(beta=0.9))
    for offset in (2.0, 3.0):
        merged, result = Given(rows, offset=offset).at_shared_params(multi)
        np.testing.assert_allclose(merged.numpy(), oracle.merge(rows.numpy() / offset), rtol=1e-9)
        assert [float(weight) for weight in result.weights.values()] == [1.0 / offset] * 3


def test_all_feature_tensors_have_one_length() -> None:
    method = DBMTL()
    method.start(["0", "1"])
    parts = [torch.randn(2, 4, 3, dtype=torch.float64), 5 * torch.randn(2, 4, 2, 2, dtype=torch.float64)]
    merged = method.aggregate(parts, [torch.zeros(4, 3), torch.zeros(4, 2, 2)], ["0", "1"])
    flat = np.concatenate([part.flatten(1).numpy() for part in parts], axis=1)
    expected = DBMTLOracle(0.0, 0.5).merge(flat)
    np.testing.assert_allclose(np.concatenate([m.flatten().numpy() for m in merged]), expected, rtol=1e-9)


def test_averages_at_features_are_refused_with_both_ways_out() -> None:
    given = Given(torch.randn(2, 4, 3, dtype=torch.float64))
    with pytest.raises(
        ValueError, match=r"every step has another batch: pass shared_params= .* or use DBMTL\(beta=0\)"
    ):
        given.at_features(MultiLoss(aggregator=DBMTL(beta=0.5)))
    assert given.point.grad is None


def test_averages_are_saved_and_an_absent_loss_keeps_its_own() -> None:
    method = DBMTL(beta=0.5)
    method.start(["a", "b", "c"])
    rows = torch.randn(3, 6, dtype=torch.float64)
    for present in ([0, 1, 2], [0, 2]):
        method.aggregate([rows[present]], [None], ["abc"[i] for i in present])
        method.commit()
    assert torch.equal(method.state.gradients[1], 0.5 * rows[1])
    fresh = DBMTL(beta=0.5)
    fresh.load_state_dict(method.state_dict())
    for each in (method, fresh):
        assert torch.equal(
            each.aggregate([rows], [None], ["a", "b", "c"])[0],
            method.aggregate([rows], [None], ["a", "b", "c"])[0],
        )
