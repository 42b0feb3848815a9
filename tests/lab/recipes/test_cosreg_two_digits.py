import pytest
import torch

from manyloss.lab.arms import choose_arms
from manyloss.lab.checks import DataError
from manyloss.lab.datasets import two_digits
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes.cosreg_two_digits import SOURCES, TwoDigits

TABLE_1 = ("single", "equal", "dropout", "batchnorm", "cosreg", "cosreg-batchnorm")


def test_every_row_of_the_papers_table_and_of_the_demo_is_an_arm():
    problem = TwoDigits()
    recipe = recipe_named("cosreg-two-digits")
    names = [arm.name for arm in choose_arms([*TABLE_1, *recipe.arms], problem)]
    assert names == [
        "single:left",
        "single:right",
        "equal",
        "dropout",
        "batchnorm",
        "cosreg",
        "cosreg-batchnorm",
        "gradnorm",
        "graddrop",
        "pcgrad",
        "mgda",
    ]
    chosen = {arm.name: arm for arm in choose_arms(["cosreg", "cosreg-batchnorm"], problem)}
    assert chosen["cosreg"].options["alpha"] == 10.0
    assert chosen["cosreg-batchnorm"].options["alpha"] == 0.1


def test_the_embedded_data_needs_no_files_and_differs_between_seeds():
    problem = TwoDigits(images_per_pair=10)
    splits = problem.datasets(seed=0)
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [160, 40, 50]
    images, targets = splits.train.batch(torch.arange(4), None)
    assert images.shape == (4, 1, 10, 20)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert set(targets) == {"left", "right"}
    one, one_targets = splits.train[2]
    assert torch.equal(one, images[2])
    assert one_targets["left"] == targets["left"][2]
    other = problem.datasets(seed=1)
    assert not torch.equal(other.train.inputs, splits.train.inputs)


def test_full_scale_has_the_papers_sizes():
    numbers = SOURCES["mnist"]
    assert (numbers["height"], 2 * numbers["half_width"]) == (64, 64)
    pairs = {"train": 16, "validation": 4, "test": 5}
    assert {name: pairs[name] * count for name, count in numbers["images_per_pair"].items()} == {
        "train": 16_000,
        "validation": 4_000,
        "test": 5_000,
    }
    assert recipe_named("cosreg-two-digits").scales["full"]["data"] == "mnist"
    assert (TwoDigits.batch_size, TwoDigits.filters) == (64, 20)


def test_the_full_scale_network_takes_a_step_on_the_papers_images():
    problem = TwoDigits(data="mnist")
    model = problem.model()
    features, outputs = model(torch.rand(8, 1, 64, 64))
    assert features.shape == (8, 20, 16, 16)
    assert {side: tuple(logits.shape) for side, logits in outputs.items()} == {
        "left": (8, 5),
        "right": (8, 5),
    }


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_the_network_learns_one_batch_by_heart(data):
    problem = TwoDigits(data=data)
    model = problem.model()
    size = SOURCES[data]
    x = torch.rand(16, 1, size["height"], 2 * size["half_width"])
    targets = {side: torch.randint(0, two_digits.CLASSES, (16,)) for side in problem.losses}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        _, outputs = model(x)
        loss = sum(problem.compute_losses(outputs, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_methods_measure_at_the_second_convolution():
    for batchnorm in (False, True):
        problem = TwoDigits()
        problem.batchnorm = batchnorm
        model = problem.model()
        (weight,) = problem.shared_params(model)
        assert weight.shape == (20, 20, 3, 3)
        assert any(weight is p for p in model.encoder.parameters())


def test_arms_change_the_network():
    problem = TwoDigits()
    for name in ("dropout", "batchnorm"):
        choose_arms([name], problem)[0].apply(problem)
    kinds = {type(module).__name__ for module in problem.model().modules()}
    assert {"Dropout", "BatchNorm2d"} <= kinds


def test_the_score_is_the_harmonic_mean():
    problem = TwoDigits()
    assert problem.derive({"left/accuracy": 0.5, "right/accuracy": 1.0}) == {"harmonic mean": 2 / 3}
    assert problem.derive({"left/accuracy": 0.0, "right/accuracy": 0.0}) == {"harmonic mean": 0.0}


def test_unknown_data_is_refused():
    with pytest.raises(
        DataError, match=r"cosreg-two-digits has no data 'svhn'. Choose --data digits or mnist"
    ):
        TwoDigits(data="svhn")


def test_missing_mnist_names_the_command(tmp_path):
    with pytest.raises(DataError, match="manyloss data get mnist"):
        TwoDigits(data="mnist", data_root=str(tmp_path)).datasets(seed=0)
