"""Nine losses of one detector: anchors and boxes, each loss by hand, rows, a scene learned by heart."""

import numpy as np
import pytest
import torch

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.boxes import AveragePrecision
from manyloss.lab.checks import LabError
from manyloss.lab.recipes.graddrop_pointpillars import LOSSES, Synergy, Vehicles, focal
from manyloss.lab.training import Training
from tests.lab.datasets.test_lidar import write_waymo

SMALL = {"reach": 8.0, "side": 1.0, "channels": 2, "train": 2, "test": 1, "batch_size": 2}


def test_the_focal_loss_by_hand():
    scores, state = torch.tensor([[0.0, 2.0, -1.0, 5.0]]), torch.tensor([[1, 0, 0, -1]])
    p = scores.sigmoid()[0]
    expected = -0.25 * (1 - p[0]) ** 2 * p[0].log()
    expected -= 0.75 * sum(p[i] ** 2 * (1 - p[i]).log() for i in (1, 2))
    torch.testing.assert_close(focal(scores, state), expected)


def test_each_loss_is_of_its_number_alone():
    problem = Vehicles(**SMALL)
    anchors = len(problem.anchors)
    state = torch.zeros(1, anchors, dtype=torch.long)
    state[0, 5] = 1
    targets = {"state": state, "box": torch.zeros(1, anchors, 7), "direction": torch.ones_like(state)}
    outputs = {
        "box": torch.zeros(1, anchors, 7),
        "class": torch.zeros(1, anchors),
        "direction": torch.zeros(1, anchors, 2),
    }
    outputs["box"][0, 5] = torch.tensor([1.0, 0, 0, 0, 0, 0, np.pi])
    outputs["box"][0, 6] = 9.0  # this anchor has no box
    losses = problem.compute_losses(outputs, targets)
    assert tuple(losses) == LOSSES
    assert float(losses["x"]) == pytest.approx(2 * (1 - 1 / 18))
    assert all(float(losses[name]) == pytest.approx(0, abs=1e-6) for name in ("y", "height", "heading"))
    assert float(losses["direction"]) == pytest.approx(0.2 * np.log(2))
    none = problem.compute_losses(outputs, {**targets, "state": torch.zeros_like(state)})
    assert [name for name, loss in none.items() if loss is not None] == ["class"]


def training(problem, text, epochs=1):
    arm = choose_arm(text, problem)
    arm.apply(problem)
    problem.epochs = epochs
    return Training(problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, model=model))


def test_the_rate_grows_over_the_first_steps_and_clips():
    problem = Vehicles(**{**SMALL, "ramp": 4})
    made = training(problem, "equal")
    assert problem.clip_gradients == 1.0
    rates = []
    made.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    inputs, targets = made.splits.train.batch(torch.tensor([0]), None)
    for step in range(5):
        made.step(step, inputs, targets)
    assert rates == pytest.approx([1.5e-3 * share for share in (0.25, 0.5, 0.75, 1, 1)])
    assert made.optimizer.param_groups[0]["lr"] == 1.5e-3


def test_combinations_are_rows_and_waymo_is_read(tmp_path):
    assert training(Synergy(**SMALL), "mgda-graddrop").trainer.multi.weighting.name == "mgda"
    write_waymo(tmp_path, numbers=6)
    problem = Vehicles("waymo", str(tmp_path), reach=12.8, side=0.8, channels=2, batch_size=1)
    made = training(problem, "graddrop")
    (record,) = made.epochs()
    assert set(record["train"]) == set(LOSSES)
    assert not problem.has_papers_data()
    with pytest.raises(
        LabError, match=r"30 m are no multiple of 8 pillars of 0.7 m. Choose --option reach=16 --option side"
    ):
        Vehicles(reach=15.0, side=0.7)


def test_a_scene_is_learned_by_heart():
    problem = Vehicles(reach=8.0, side=0.5, channels=8, train=1, test=1, batch_size=1, ramp=1)
    made = training(problem, "equal")
    inputs, targets = made.splits.train.batch(torch.tensor([0]), None)
    assert len(targets["truth"][0]) > 0
    made.record_every = 1000
    for step in range(150):
        made.step(step, inputs, targets)
    _, outputs = made.model(inputs)
    metric = AveragePrecision(3, heading=True)
    metric.update(problem.detected(outputs, 0), targets["truth"][0])
    assert float(metric.compute()) > 0.9
    shown = problem.pictures(inputs, outputs, targets)
    assert shown.inputs.shape == shown.truth["vehicles"].shape == (1, 240, 240, 3)
    drawn = [int((each["vehicles"] != shown.inputs).any(-1).sum()) for each in (shown.truth, shown.outputs)]
    assert drawn[1] == pytest.approx(drawn[0], rel=0.3)
