"""Dense tasks on made rooms: targets at the output pixels, errors with known answers, a batch by heart."""

import pytest
import torch

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.checks import LabError
from manyloss.lab.datasets import rooms
from manyloss.lab.metrics import CosineDistance, IoUDistance
from manyloss.lab.recipes.gradnorm_nyuv2_seg import Rooms, cosine_distance, rendered
from manyloss.lab.training import Training


def test_targets_are_read_in_the_middle_of_the_outputs_pixels():
    split = rendered(0, 5, 2, image=64, output=16)
    room = rooms.render(0, 6, 64, 64)
    assert split.inputs.shape == (2, 3, 64, 64)
    assert split.targets["depth"][1, 0, 3, 4] == room.depth[14, 18]
    assert split.targets["segmentation"][1, 3, 4] == room.classes[14, 18]
    assert split.targets["normals"][1, :, 3, 4].tolist() == room.normals[14, 18].tolist()
    images, _ = split.batch(torch.arange(2), None)
    assert -1 <= float(images.min()) < float(images.max()) <= 1


def test_errors_with_known_answers():
    one = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(2, 3, 4, 4)
    other = torch.tensor([0.0, 2, 0])[None, :, None, None].expand(2, 3, 4, 4)
    metric = CosineDistance()
    metric.update(one, one)
    metric.update(3 * one, other)
    assert float(metric.compute()) == pytest.approx(0.5)
    assert float(cosine_distance(one, other)) == pytest.approx(1.0)
    iou = IoUDistance(num_classes=2)
    iou.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    assert float(iou.compute()) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)


def test_w_is_the_last_shared_convolution_and_odd_sizes_are_refused():
    problem = Rooms(image=32, width=2)
    model = problem.model()
    weight, _ = problem.shared_params(model)
    assert weight is model.get_submodule("encoder.up.4.3").weight
    with pytest.raises(LabError, match=r"images of 90 pixels .* Choose --image 80, 160 or 320"):
        Rooms(image=90, unpoolings=3)


def test_one_batch_is_learned_by_heart():
    problem = Rooms(image=32, width=8, train=4, test=2, batch_size=4, lr=1e-2)
    problem.epochs = 80
    problem.schedule = lambda optimizer: None
    arm = choose_arm("equal", problem)
    training = Training(problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, model=model))
    records = [record["train"] for record in training.epochs()]
    assert all(records[-1][task] < 0.4 * records[0][task] for task in problem.losses)
