"""What a step reports."""

from __future__ import annotations

import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.penalties import CosReg, GradientPenalty


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
