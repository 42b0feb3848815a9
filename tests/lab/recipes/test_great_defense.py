"""The defense recipes: the paper's numbers, honest columns, and every row learns one batch by heart."""

import pytest
import torch

from manyloss.adversarial import GradientDefense
from manyloss.lab import checks
from manyloss.lab.analysis.table import read_table
from manyloss.lab.arms import ArmContext, choose_arms
from manyloss.lab.models.resnet import resnet18
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes._great import polynomial, random_crop, random_flip
from manyloss.lab.recipes._great_defense import ATTACKS, MISSED, ROWS, TRAIN_ACCURACY, WORST, ZERO_GRADIENT
from manyloss.lab.recipes._saliency import (
    GINI,
    MIDDLE,
    TOLD,
    gini,
    share_in_the_middle,
    told_by_gradient,
)
from manyloss.lab.recipes.great_defense_cifar import CifarDefense
from manyloss.lab.recipes.great_defense_svhn import DigitDefense
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial
from tests.lab.recipes.made_cifar import write


def test_the_papers_numbers():
    assert (CifarDefense.eps, DigitDefense.eps) == (0.1, 0.2)
    for problem_class, beta in ((CifarDefense, 2.0), (DigitDefense, 10.0)):
        problem = problem_class()
        options = {arm.name: arm.options for arm in choose_arms(ROWS, problem)}
        assert options["great-greace"] | {"alpha_max": 1.0, "beta_max": beta} == options["great-greace"]
        assert (options["great"]["beta_max"], options["great"]["alpha_max"]) == (0.0, 1.0)
        assert (options["greace"]["beta_max"], options["greace"]["alpha_max"]) == (beta, 0.0)
        assert options["fgsm-training"]["eps"] == 0.2
        assert (problem.batch_size, problem.learning_rate, problem.attack_steps) == (128, 1e-3, 10)
        assert problem.keep_last
    full = recipe_named("great-defense-cifar").scales["full"]
    assert full["epochs"] == 100
    assert "width" not in full
    assert recipe_named("great-defense-svhn").scales["full"]["data"] == "svhn"


def test_the_full_scale_networks_are_the_papers():
    problem = CifarDefense()
    with torch.device("meta"):
        network, auxiliary = problem.network(), problem.auxiliary()
    sizes = [sum(p.numel() for p in each.parameters()) for each in (network, auxiliary)]
    assert sizes == [11_173_962, 11_173_962]
    slopes = {m.negative_slope for m in auxiliary.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == {0.2}
    assert not any(isinstance(m, torch.nn.LeakyReLU) for m in network.modules())


def test_the_learning_rate_follows_the_papers_rule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = polynomial(optimizer, 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-3 * (1 - epoch / 10) ** 0.9 for epoch in range(10)])


def test_a_crop_is_a_window_of_the_padded_image():
    images = torch.arange(1, 2 * 3 * 8 * 8 + 1).reshape(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    offsets = set()
    for _ in range(60):
        cropped = random_crop(images, generator)
        for image, window in zip(images, cropped, strict=True):
            padded = torch.nn.functional.pad(image, [4] * 4)
            found = [
                (i, j)
                for i in range(9)
                for j in range(9)
                if torch.equal(padded[:, i : i + 8, j : j + 8], window)
            ]
            assert len(found) == 1
            offsets.update(found)
    assert {i for i, _ in offsets} == {j for _, j in offsets} == set(range(9))


def test_a_flip_exchanges_left_and_right_of_about_half():
    images = torch.rand(400, 1, 2, 4)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    changed = (flipped != images).flatten(1).any(1)
    assert torch.equal(flipped[changed], images[changed].flip(3))
    assert 140 < int(changed.sum()) < 260


def test_cifar_is_read_held_out_and_augmented_in_training_only(tmp_path):
    write(tmp_path)
    problem = CifarDefense(data_root=str(tmp_path), validation=50, train=200, test=30)
    splits = problem.datasets(0)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [200, 50, 30]
    images, targets = splits.train.batch(torch.arange(4), torch.Generator().manual_seed(0))
    plain, _ = splits.train.batch(torch.arange(4), None)
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert not torch.equal(images, plain)
    assert set(targets) == {"class"}
    assert torch.bincount(splits.test.targets["class"]).tolist() == [3] * 10
    one, one_targets = splits.train[2]
    assert torch.equal(one, plain[2])
    assert one_targets["class"] == targets["class"][2]
    held_out = {tuple(image.flatten().tolist()) for image in splits.validation.inputs}
    assert not held_out & {tuple(image.flatten().tolist()) for image in splits.train.inputs}


def test_without_the_data_the_command_is_named(tmp_path):
    with pytest.raises(checks.DataError, match="manyloss data get cifar10"):
        CifarDefense(data_root=str(tmp_path)).datasets(0)


@pytest.mark.parametrize(
    ("data", "width", "train", "its"),
    [
        ("cifar10", 64, None, True),
        ("digits", 64, None, False),
        ("cifar10", 8, None, False),
        ("cifar10", 64, 5000, False),
    ],
)
def test_only_the_papers_own_setting_counts_as_such(data, width, train, its):
    assert CifarDefense(data=data, width=width, train=train).has_papers_data() is its
    assert DigitDefense(data="svhn").has_papers_data()
    assert not DigitDefense().has_papers_data()


#: Rows that attack in several steps.
HEAVY = ("pgd-training", "trades")


def context_of(problem, arm):
    torch.manual_seed(0)
    return ArmContext(("class",), 0, problem=problem, model=problem.model())


@pytest.mark.parametrize(
    "arm", [pytest.param(row, marks=[pytest.mark.slow] if row in HEAVY else []) for row in (*ROWS, "trades")]
)
def test_every_row_learns_one_batch_by_heart(arm):
    problem = CifarDefense(data="digits", width=8)
    (chosen,) = choose_arms([arm], problem)
    chosen.apply(problem)
    context = context_of(problem, chosen)
    way = chosen.build(context)
    model = context.model
    # A clean and an adversarial image of the same class can both be learned at a small eps only.
    x = torch.rand(10, 3, 32, 32).mul(0.2).add(0.4)
    x[torch.arange(10), :, torch.arange(10) * 3] = 1.0
    y = torch.arange(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    way.set_progress(0.3)
    for _ in range(40):
        optimizer.zero_grad()
        if hasattr(way, "step"):
            way.step(model, x, {"class": y})
        else:
            problem.training_step(model, way, x, {"class": y}, None)
        optimizer.step()
    assert (model.network(x).argmax(1) == y).double().mean() >= 0.9


@pytest.mark.slow
def test_the_full_scale_path_learns_one_batch_by_heart():
    problem = CifarDefense(data="digits")
    (chosen,) = choose_arms(["great-greace"], problem)
    context = context_of(problem, chosen)
    way = chosen.build(context)
    assert isinstance(way.method, GradientDefense)
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    optimizer = torch.optim.Adam(context.model.parameters(), lr=3e-4)
    way.set_progress(0.3)
    losses = []
    for _ in range(18):
        optimizer.zero_grad()
        losses.append(float(way.step(context.model, x, {"class": y}).losses["class"]))
        optimizer.step()
    assert max(losses[-3:]) < 0.1 * losses[0]  # single steps go up and down


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two rows of the smoke scale, on a made CIFAR-10 in the official layout."""
    root = tmp_path_factory.mktemp("defense")
    write(root / "data")
    options = dict(recipe_named("great-defense-cifar").scales["smoke"])
    epochs = options.pop("epochs")
    options.pop("seeds")
    options |= {"data": "cifar10", "data_root": str(root / "data"), "autoattack": 0}
    study = Study.plan(
        Source("great-defense-cifar", options), ["great-greace"], [0], root / "run", epochs=epochs
    )
    study.root.mkdir()
    study.write()
    for spec in study.trials():
        Trial(spec).run()
    return study


def test_results_hold_every_attack_and_the_verdict(study):
    results = {spec.arm: Trial(spec).run() for spec in study.trials()}
    assert [*results] == ["baseline", "great-greace"]
    test = results["great-greace"]["test"]
    assert set(test) == {"class/accuracy", TRAIN_ACCURACY, *ATTACKS, *MISSED, WORST, GINI, MIDDLE, TOLD}
    assert test[WORST] <= min(test[name] for name in ATTACKS)
    assert "transfer" not in results["baseline"]["test"]
    for result in results.values():
        assert result["best_epoch"] == 2
        record = result["record"]["robustness"]
        assert result["words"]["gradient masking"] == (
            "suspected" if record["masking"]["suspected"] else "no sign"
        )
        assert result["remarks"][0].startswith(
            "masking suspected" if record["masking"]["suspected"] else "no sign of masking"
        )
        assert record["eps_255"] == pytest.approx(25.5)
        assert {"0.0", "0.05", "1.0"} <= set(record["curves"]["FGSM"])
    assert results["great-greace"]["record"]["robustness"]["examples"] == 10


def test_the_table_shows_the_attacks_and_the_verdict_side_by_side(study):
    table = read_table(study.root)
    assert table.word_columns == ["gradient masking"]
    assert {metric.name for metric in table.metrics} == {
        "class/accuracy",
        TRAIN_ACCURACY,
        *ATTACKS,
        *MISSED,
        WORST,
        GINI,
        MIDDLE,
        TOLD,
    }
    counted = [metric.name for metric in table.metrics if not metric.derived]
    assert counted == ["class/accuracy"]
    assert len(table.remarks) >= 2


def test_what_is_watched_is_recorded(study):
    from manyloss.lab.runs import storage

    folder = storage.trial_folder(study.root, "great-greace", 0)
    watched = [record["watched"] for record in storage.read_lines(folder / "steps.jsonl")]
    assert {"auxiliary accuracy", "logit drift", "alpha", "beta"} <= set(watched[0])
    assert watched[0]["alpha"] == 0.0
    assert watched[-1]["alpha"] > 0.0


def test_the_course_is_measured_twenty_times_on_test_images():
    problem = CifarDefense(data="digits", width=2, train=100, validation=20, test=10, pgd_steps=2)
    problem.epochs = 200
    model, splits = problem.model(), problem.datasets(0)
    with torch.no_grad():
        model.network[-1].weight.zero_()  # no gradient reaches an image, and all logits are the biases
        model.network[-1].bias.copy_(torch.arange(10.0))
    seen = [epoch for epoch in range(1, 201) if problem.after_epoch(model, splits, epoch)]
    assert seen == [1, *range(10, 201, 10)]
    found = problem.after_epoch(model, splits, 200)
    assert (found["largest logit"], found["median largest logit"], found[ZERO_GRADIENT]) == (9, 9, 1)
    assert {found[f"under {attack}"] for attack in ("FGSM", "iFGSM", "PGD margin")} == {0.1}  # all are nines
    assert model.training


# -- saliency -----------------------------------------------------------------------------------------------


def test_gini_is_0_for_an_even_map_and_near_1_for_a_single_pixel():
    maps = torch.zeros(3, 8, 8)
    maps[0] = 2.5
    maps[1, 3, 3] = 1.0
    assert gini(maps).tolist() == pytest.approx([0.0, 63 / 64, 0.0], abs=1e-9)


def test_the_share_in_the_middle():
    maps = torch.zeros(3, 8, 8)
    maps[0] = 1.0
    maps[1, 2:6, 2:6] = 1.0
    maps[2, 0, 0] = 1.0
    assert share_in_the_middle(maps).tolist() == [0.25, 1.0, 0.0]


def test_gradients_that_tell_the_class_are_told_from_noise():
    y = torch.arange(200) % 10
    patterns = torch.randn(10, 3, 8, 8)
    assert told_by_gradient(patterns[y] + 0.1 * torch.randn(200, 3, 8, 8), y, 10) > 0.95
    assert told_by_gradient(torch.randn(200, 3, 8, 8), y, 10) < 0.3


def test_the_maps_are_measured_and_kept():
    problem = CifarDefense(
        data="digits", width=4, train=100, validation=20, test=20, attack_steps=2, pgd_steps=2
    )
    problem.evaluation_batch_size = 48
    assert {GINI, MIDDLE, TOLD} <= set(problem.metric_directions())
    assert not problem.metric_directions()[TOLD]["higher_is_better"]
    model = problem.model().eval()
    found = problem.final_evaluation(model, problem.datasets(0), ArmContext(("class",), 0))
    assert 0 < found.metrics[GINI] < 1
    assert set(problem.derived) - set(found.metrics) == {"transfer"}
    assert len(found.record["saliency"]) == 3
    assert all(p.grad is None for p in model.parameters())
    assert found.words


def test_the_model_in_a_trial_is_the_network_that_is_attacked():
    problem = CifarDefense(width=4)
    model = problem.model()
    logits, outputs = model(torch.rand(2, 3, 32, 32))
    assert outputs["class"] is logits
    assert type(model.network) is type(resnet18(width=4))


def test_the_report_draws_curves_beside_the_verdict(study):
    from manyloss.lab.reports.page import write_report
    from tests.lab.reports.test_report import Page

    page = Page(write_report(study.root).read_text(encoding="utf-8"))
    words = page.words()
    assert "Under attack" in words
    assert words.count("gradient masking") >= 2
    assert "at the last epoch" in words
    assert "best on validation" not in words
    drawn = [found["aria-label"] for found in page.all("div", role="img") if "attack" in found["class"]]
    assert [label.partition(".")[0] for label in drawn] == ["FGSM", "PGD cross-entropy", "PGD margin"]
    assert all("great-greace: 0 " in label for label in drawn)
