"""What a step reports."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyloss import MultiLoss, methods
from manyloss.diagnostics import ConflictRecorder
from manyloss.penalties import CosReg, GradientPenalty
from manyloss.weighting import MGDA, Equal, GradVac, IterativePCGrad, PCGrad, Primary, UPGrad, Weighting
from tests.problems import Network


def test_two_penalties_of_one_class_both_count() -> None:
    torch.manual_seed(0)
    encoder, heads = nn.Linear(3, 4), [nn.Linear(4, 1) for _ in range(2)]
    inputs = torch.randn(5, 3)

    def encoder_gradient(*penalties: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        encoder.zero_grad()
        features = encoder(inputs).tanh()
        losses = {str(i): head(features).square().mean() for i, head in enumerate(heads)}
        result = MultiLoss(penalties=penalties).backward(losses, features=features)
        return encoder.weight.grad.clone(), result.penalties

    once, _ = encoder_gradient(GradientPenalty(0.2))
    twice, values = encoder_gradient(GradientPenalty(0.1), CosReg(0.0), GradientPenalty(0.1))
    assert list(values) == ["GradientPenalty", "CosReg", "GradientPenalty 2"]
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize(
    ("weighting", "numbers"),
    [
        (PCGrad(seed=0), "projection coefficients"),
        (IterativePCGrad(seed=0), "projection coefficients"),
        (GradVac(seed=0), "projection coefficients"),
        (Primary(), "projection coefficients"),
        (UPGrad(), "projection coefficients"),
        (MGDA(), "weights"),
        (Equal(), "weights"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_projection_coefficients_are_called_so(weighting: Weighting, numbers: str) -> None:
    network, multi, kept = Network(2), MultiLoss(weighting), {}
    features, losses = network.forward()
    with ConflictRecorder(multi, every=1, writer=lambda tags, _: kept.update(tags)) as recorder:
        result = multi.backward(losses, features=features)
    assert result.numbers == recorder.records[0]["numbers"] == methods()[weighting.name].numbers == numbers
    assert f"{numbers.replace(' ', '_')}={{loss_0: " in repr(result)
    assert f"manyloss/{numbers.removesuffix('s')}/loss_0" in kept
    assert ("manyloss/weight/loss_0" in kept) == (numbers == "weights")
