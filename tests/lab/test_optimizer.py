"""What any arm may change about the user's optimiser."""

import pytest
import torch

from manyloss import lab
from manyloss.lab.arms import choose_arm
from manyloss.lab.optimizer import OptimizerSettings
from tests.lab.small_problem import DigitAndInk


def sgd(**settings):
    weight = torch.nn.Parameter(torch.ones(3))
    return weight, torch.optim.SGD([weight], **{"lr": 0.1, **settings})


def step(weight, optimizer):
    weight.grad = torch.ones_like(weight)
    optimizer.step()


@pytest.mark.parametrize("schedule", [None, "onecycle", "cosine"])
def test_a_factor_is_another_learning_rate_under_any_schedule(schedule):
    def trained(lr, factor):
        weight, optimizer = sgd(lr=lr, momentum=0.5)
        OptimizerSettings(factor).apply(optimizer)
        scheduler = {
            None: lambda: None,
            "onecycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=5),
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
        }[schedule]()
        for _ in range(4):
            step(weight, optimizer)
            if scheduler is not None:
                scheduler.step()
        return weight.detach()

    torch.testing.assert_close(trained(0.1, 3.0), trained(0.3, 1.0))


def test_the_users_learning_rate_is_there_again_after_the_step():
    weight, optimizer = sgd()
    OptimizerSettings(2.0).apply(optimizer)
    step(weight, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1


def test_what_was_kept_from_decay_stays_so():
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [matrix], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    OptimizerSettings(weight_decay=0.01).apply(optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    _, without = sgd()
    OptimizerSettings(weight_decay=0.01).apply(without)
    assert without.param_groups[0]["weight_decay"] == 0.01


def test_they_are_options_of_every_arm():
    problem = DigitAndInk()
    chosen = choose_arm("gradnorm:optimizer.weight_decay=1e-3:alpha=0.5:optimizer.lr_factor=2", problem)
    assert chosen.name == "gradnorm:alpha=0.5:optimizer.lr_factor=2:optimizer.weight_decay=0.001"
    assert chosen.optimizer == OptimizerSettings(2, 0.001)
    assert "optimizer.lr_factor" not in chosen.options
    assert choose_arm(chosen.name, problem) == chosen
    static = choose_arm("static:digit=0.5:optimizer.lr_factor=0.3", problem)
    assert static.options == {"digit": 0.5, "ink": 1.0}
    average = choose_arm("gradnorm-static:optimizer.lr_factor=2", problem)
    assert average.requires == ("gradnorm:optimizer.lr_factor=2",)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("optimizer.lr_factor=0", "optimizer.lr_factor must be a number above 0, got 0"),
        ("optimizer.lr_factor=high", "optimizer.lr_factor must be a number above 0, got 'high'"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay must be a number, 0 or above, or none, got -1"),
        ("optimizer.lr=1", "Did you mean 'optimizer.lr_factor'"),
    ],
)
def test_values_that_cannot_be_are_refused(option, said):
    with pytest.raises(lab.LabError, match=said):
        choose_arm(f"equal:{option}", DigitAndInk())
