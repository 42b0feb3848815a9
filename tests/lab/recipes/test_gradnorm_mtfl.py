"""GradNorm's faces: errors with known answers, units, and one batch learned by heart."""

import pytest
import torch

from manyloss.lab.arms import ArmContext, choose_arm, choose_arms
from manyloss.lab.checks import LabError
from manyloss.lab.metrics import ErrorRate, FailureRate, KeypointDistance
from manyloss.lab.recipes import has_papers_data, recipe_named
from manyloss.lab.recipes.gradnorm_mtfl import Faces40, Faces160
from manyloss.lab.training import Training


def one_batch(size=40):
    return Faces40(data="made", size=size, train=64)


def test_the_errors_are_shares_of_the_distance_of_the_eyes():
    target = torch.tensor([[10.0, 10, 30, 10, 20, 20, 12, 30, 28, 30]]).repeat(2, 1)
    output = target.clone()
    output[0, 0] += 10  # one of five landmarks is half the distance of the eyes off
    output[1, 5] += 5
    keypoint, failure = KeypointDistance(), FailureRate()
    for metric in (keypoint, failure):
        metric.update(output[:1], target[:1])
        metric.update(output[1:], target[1:])
    assert float(keypoint.compute()) == pytest.approx((0.5 / 5 + 0.25 / 5) / 2)
    assert float(failure.compute()) == 0.0  # exactly 10 % is no failure
    failure.update(output[:1] + torch.tensor([0.1] + [0.0] * 9), target[:1])
    assert float(failure.compute()) == pytest.approx(1 / 3)
    rate = ErrorRate(num_classes=2, average="micro")
    rate.update(torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]]), torch.tensor([0, 1, 1, 0]))
    assert float(rate.compute()) == 0.25


def test_pixels_are_the_crops_unit_times_its_side_and_the_error_knows_no_unit():
    pixels, crop = (
        one_batch().datasets(0).train,
        Faces40(data="made", unit="crop", train=64).datasets(0).train,
    )
    torch.testing.assert_close(pixels.targets["landmarks"], 40 * crop.targets["landmarks"])
    errors = []
    for split in (pixels, crop):
        metric = KeypointDistance()
        metric.update(1.1 * split.targets["landmarks"], split.targets["landmarks"])
        errors.append(float(metric.compute()))
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    with pytest.raises(
        LabError, match=r"no unit 'metres' for landmarks\. Choose --option unit=pixels or crop"
    ):
        Faces40(unit="metres")
    with pytest.raises(LabError, match=r"gradnorm-mtfl has no data 'celeba'\. Choose --data made or mtfl"):
        Faces40(data="celeba")


def test_splits_are_the_seeds_and_share_no_face():
    splits = one_batch().datasets(0)
    first, second = (
        {face.numpy().tobytes() for face in split.inputs} for split in (splits.train, splits.validation)
    )
    assert first
    assert second
    assert not first & second
    again, other = one_batch().datasets(0), one_batch().datasets(1)
    assert torch.equal(again.train.inputs, splits.train.inputs)
    assert not torch.equal(other.validation.inputs, splits.validation.inputs)
    assert torch.equal(other.test.inputs, splits.test.inputs)
    images, targets = splits.train.batch(torch.arange(3), None)
    assert images.shape == (3, 1, 40, 40)
    assert -1 <= float(images.min()) < float(images.max()) <= 1
    assert targets["pose"].max() == 1


@pytest.mark.parametrize("size", [40, pytest.param(160, marks=pytest.mark.slow)])
def test_one_batch_is_learned_by_heart(size):
    problem = Faces40(data="made", size=size, unit="crop", train=16)
    problem.epochs = 60
    arm = choose_arm("equal", problem)
    training = Training(problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, model=model))
    records = list(training.epochs())
    first, last = records[0]["train"], records[-1]["train"]
    assert last["landmarks"] < 0.2 * first["landmarks"]
    assert last["gender"] < 0.5 * first["gender"]


@pytest.mark.parametrize("unit", ["pixels", "crop"])
def test_networks_start_at_the_mean_face_in_either_unit(unit):
    problem = Faces40(data="made", unit=unit, train=64)
    images, targets = problem.datasets(0).train.batch(torch.arange(32), None)
    _, outputs = problem.model()(images)
    metric = KeypointDistance()
    metric.update(outputs["landmarks"], targets["landmarks"])
    assert float(metric.compute()) < (0.5 if unit == "pixels" else 4)
    assert outputs["landmarks"].abs().max() < (40 if unit == "pixels" else 2)


def test_the_papers_rows_alphas_and_w():
    for name, alpha in (("gradnorm-mtfl", 0.3), ("gradnorm-mtfl-160", 0.2)):
        recipe = recipe_named(name)
        problem = recipe.problem()
        arms = {arm.name: arm for arm in choose_arms(recipe.arms, problem)}
        assert arms["gradnorm"].options["alpha"] == alpha
        assert arms["gradnorm-static"].requires == ("gradnorm",)
        model = problem.model()
        assert problem.shared_params(model)[0].shape[0] == 100
        assert sum(head.out_features for head in problem.heads().values()) == 18
        assert has_papers_data(problem)
    assert not has_papers_data(one_batch())
    assert not has_papers_data(Faces160(width=8))
    assert Faces160().size == 160


def test_uncertainty_knows_which_loss_is_a_regression():
    problem = one_batch()
    multi = choose_arm("uncertainty", problem).build(ArmContext(problem.loss_names, 0))
    kinds = multi.weighting.kinds
    assert [name for name, kind in kinds.items() if kind == "regression"] == ["landmarks"]


def test_channels_last_learns_the_same():
    """One epoch in PyTorch's other layout ends with the same weights, but for the order of sums."""
    weights = []
    for channels_last in (True, False):
        problem = one_batch()
        assert problem.channels_last
        problem.epochs, problem.channels_last = 1, channels_last
        problem.optimizer = lambda params: torch.optim.SGD(params, lr=0.05)  # Adam's first step is a sign
        arm = choose_arm("gradnorm", problem)
        training = Training(problem, arm, 0, lambda _, p=problem: ArmContext(p.active_names, 0, problem=p))
        kernel = training.model.encoder[4].weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) is channels_last
        before = kernel.detach().clone()
        list(training.epochs())
        assert float((kernel.detach() - before).abs().max()) > 1e-3
        weights.append([p.detach().clone() for p in training.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
