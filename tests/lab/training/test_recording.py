"""What is recorded of a step is measured in the step itself, and is what a pass of its own measures."""

import pytest
import torch

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.recipes.cosreg_two_digits import TwoDigits
from manyloss.lab.training import Training
from manyloss.lab.training.trainer import MultiLossTrainer, Trainer


def trained(arm, at):
    problem = TwoDigits(images_per_pair=8)
    problem.epochs, problem.batchnorm = 1, True
    if at == "features":
        problem.shared_params = lambda _: None
    chosen = choose_arm(arm, problem)
    training = Training(problem, chosen, 0, lambda _: ArmContext(problem.active_names, 0, problem=problem))
    (epoch,) = training.epochs()
    return training, epoch


@pytest.mark.parametrize(
    ("arm", "at"),
    [
        *((arm, "shared_params") for arm in ("equal", "pcgrad", "cosreg", "single:left")),
        *((arm, "features") for arm in ("equal", "pcgrad", "single:left")),
    ],
)
def test_measured_in_the_step_or_apart_is_the_same(arm, at, monkeypatch):
    passes = []
    forward = TwoDigits.features_and_losses
    monkeypatch.setattr(
        TwoDigits, "features_and_losses", lambda *given: (passes.append(1), forward(*given))[1]
    )
    inside, _ = trained(arm, at)
    in_the_step = len(passes)
    monkeypatch.setattr(MultiLossTrainer, "step_measured", Trainer.step_measured)
    apart, _ = trained(arm, at)
    steps = len(inside.step_records)
    assert steps == len(apart.step_records) > 1
    assert in_the_step == steps
    assert len(passes) - in_the_step == 2 * steps
    for one, other in zip(inside.step_records, apart.step_records, strict=True):
        assert one == other
        assert one["norms"] is not None
    for one, other in zip(inside.model.state_dict().values(), apart.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
