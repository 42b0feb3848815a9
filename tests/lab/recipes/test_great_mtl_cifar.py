from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manyloss.adversarial import GradientAlignment
from manyloss.lab.arms import ArmContext, choose_arms
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes.great_mtl_cifar import ErrorRate, NoisyCifar, noisy
from tests.lab.recipes.made_cifar import write


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = write(tmp_path_factory.mktemp("mtl"), per_batch=40)
    problem = NoisyCifar(data_root=str(root), train=100, validation=50, test=30)
    return problem.datasets(0)


def test_the_four_targets(splits):
    inputs, targets = splits.train.batch(torch.arange(6), torch.Generator().manual_seed(0))
    assert inputs.shape == targets["edge"].shape == targets["auto"].shape == (6, 1, 32, 32)
    assert targets["color"].shape == (6, 3, 32, 32)
    weights = torch.tensor([0.2125, 0.7154, 0.0721])[:, None, None]
    torch.testing.assert_close(targets["auto"][:, 0], (weights * targets["color"]).sum(1), atol=1e-6, rtol=0)
    assert set(targets["edge"].unique().tolist()) == {0.0, 1.0}
    assert 0 <= inputs.min() < inputs.max() <= 1
    assert {value.dtype for name, value in targets.items() if name != "class"} == {torch.float32}


def test_noise_is_new_in_training_and_fixed_in_evaluation(splits):
    indices = torch.arange(8)
    generator = torch.Generator().manual_seed(0)
    first, second = (splits.train.batch(indices, generator)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(splits.train.batch(indices, torch.Generator().manual_seed(0))[0], first)
    assert torch.equal(splits.test.batch(indices, None)[0], splits.test.batch(indices, None)[0])


def test_four_percent_are_salt_or_pepper_and_the_rest_is_speckled():
    grey = np.full((50, 32, 32), 0.5)
    found = noisy(grey, 0)
    peppered = found < 0.1  # speckle leaves black black and moves 0.5 by 0.05
    salted = found > 0.75
    assert peppered.mean() == pytest.approx(0.02, abs=0.003)
    assert salted.mean() == pytest.approx(0.02, abs=0.003)
    rest = found[~peppered & ~salted]
    assert (rest / 0.5 - 1).std() == pytest.approx(0.1, rel=0.03)


def test_the_full_network_is_resnet_18_with_four_heads():
    problem = NoisyCifar()
    with torch.device("meta"):
        model = problem.model()
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert encoder == 11_173_962 - 5_130 - 2 * 64 * 9
    with torch.no_grad():
        small = NoisyCifar(width=4).model()
        features, outputs = small(torch.rand(2, 1, 32, 32))
    assert features.shape == (2, 32, 4, 4)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "class": (2, 10),
        "color": (2, 3, 32, 32),
        "edge": (2, 1, 32, 32),
        "auto": (2, 1, 32, 32),
    }


def test_the_papers_arms():
    problem = NoisyCifar(width=4)
    recipe = recipe_named("great-mtl-cifar")
    chosen = {arm.name: arm for arm in choose_arms(recipe.arms, problem)}
    assert chosen["gradnorm"].options["alpha"] == 0.6
    assert chosen["uncertainty"].options["normalize"] == 1.0
    assert {chosen[name].options["lr"] for name in ("gradnorm", "uncertainty", "great")} == {1e-3}
    multi = chosen["great"].build(ArmContext(problem.loss_names, 0))
    assert isinstance(multi.aggregator, GradientAlignment)
    assert recipe.scales["full"]["epochs"] == 50
    followed = []
    problem.epochs = 4
    problem.start_epoch(SimpleNamespace(set_progress=followed.append), 3)
    assert followed == [0.75]
    (weight,) = problem.shared_params(problem.model())
    assert weight.shape == (32, 32, 3, 3)


def test_the_error_is_one_minus_the_accuracy():
    metric = ErrorRate(num_classes=3, average="micro")
    metric.update(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 1]))
    assert float(metric.compute()) == 0.25
    assert NoisyCifar(width=4).metric_directions()["class/error"]["higher_is_better"] is False
    assert set(NoisyCifar(width=4).metric_names) == {"class/error", "color/RMSE", "edge/RMSE", "auto/RMSE"}


@pytest.mark.parametrize(
    "arm",
    ["gradnorm", "great", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("equal", "uncertainty"))],
)
def test_every_row_learns_one_batch_by_heart(arm, splits):
    problem = NoisyCifar(width=8)
    (chosen,) = choose_arms([arm], problem)
    torch.manual_seed(0)
    model = problem.model()
    multi = chosen.build(ArmContext(problem.loss_names, 0, problem=problem, model=model))
    x, targets = splits.train.batch(torch.arange(10), torch.Generator().manual_seed(0))
    shared = problem.shared_params(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        result = problem.training_step(model, multi, x, targets, shared)
        optimizer.step()
        losses.append({name: float(value) for name, value in result.losses.items()})
    assert losses[-1]["class"] < 0.3 * losses[0]["class"]
    for task in ("color", "edge", "auto"):
        assert losses[-1][task] < 0.7 * losses[0][task]
