"""DWA against the softmax of epoch means, over epochs of uneven length."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.weighting import DWA
from tests.problems import names
from tests.reference.dwa import DWAOracle


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_follow_the_oracle(count: int, temperature: float) -> None:
    multi, oracle = MultiLoss(weighting=DWA(temperature=temperature)), DWAOracle(count, temperature)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(5):
        for _ in range(3 + epoch % 2):
            values = (torch.rand(count, generator=generator, dtype=torch.float64) + 0.1) / (1 + epoch)
            point = torch.ones(count, dtype=torch.float64, requires_grad=True)
            losses = {name: point[i] * values[i] for i, name in enumerate(names(count))}
            result = multi.backward(losses, shared_params=[point])
            weights = [float(result.weights[name]) for name in names(count)]
            assert weights == pytest.approx(oracle.step(values.tolist()), rel=1e-12)
            assert sum(weights) == pytest.approx(count)
        multi.end_epoch()
        oracle.end_epoch()


def test_a_loss_that_falls_slowly_gains_weight() -> None:
    multi = MultiLoss(weighting=DWA())
    for slow, fast in [(1.0, 1.0), (0.9, 0.2), (0.8, 0.05)]:
        point = torch.ones(1, requires_grad=True)
        result = multi.backward({"slow": point.sum() * slow, "fast": point.sum() * fast})
        multi.end_epoch()
    assert float(result.weights["slow"]) > 1.0 > float(result.weights["fast"])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused_when_built(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        DWA(temperature=temperature)
